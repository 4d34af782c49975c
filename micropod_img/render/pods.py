"""Pods and root filesystems, for people and as the JSON that scripts rely on (CONTRACT.md, "JSON")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.render.document import error_object
from micropod_img.render.images import familiar
from micropod_img.render.table import pairs, table
from micropod_img.render.text import age, short_digest, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from micropod_img.errors import MicropodError
    from micropod_img.models import Pod
    from micropod_img.render.document import JsonObject
    from micropod_img.render.style import Style


def rootfs_object(rootfs: Path) -> JsonObject:
    """Return the data of ``unpack``, ``mount`` and ``umount``."""
    return {"rootfs": str(rootfs)}


def pod_object(pod: Pod) -> JsonObject:
    """Return a pod as JSON."""
    return {
        "id": pod.id,
        "ref": pod.ref,
        "image_digest": pod.image_digest,
        "rootfs": str(pod.rootfs),
        "bundle": None if pod.bundle is None else str(pod.bundle),
        "driver": pod.driver,
        "mounted": pod.mounted,
        "read_only": pod.read_only,
        "namespace_pid": pod.namespace_pid,
        "created_at": timestamp(pod.created_at),
    }


def pods_object(pods: Iterable[Pod]) -> JsonObject:
    """Return the data of ``pod ls``."""
    return {"pods": [pod_object(pod) for pod in pods]}


def removed_pods_object(removed: Sequence[str], failures: Iterable[tuple[str, MicropodError]]) -> JsonObject:
    """Return the data of ``pod rm``."""
    return {
        "removed": removed,
        "failures": [{"id": pod_id, "error": error_object(error)} for pod_id, error in failures],
    }


def pod_table(pods: Sequence[Pod], now: datetime, style: Style) -> str:
    """Return the table of ``pod ls``.

    Args:
        pods: In this order.
        now: The time now.
        style: How the header stands out.
    """
    rows = [
        (pod.id, familiar(pod.ref), "yes" if pod.mounted else "no", age(pod.created_at, now), str(pod.rootfs))
        for pod in pods
    ]
    return table(("ID", "IMAGE", "MOUNTED", "AGE", "ROOTFS"), rows, style=style)


def pod_text(pod: Pod, style: Style) -> str:
    """Return all about a pod."""
    rows = [
        ("Id", pod.id),
        ("Image", f"{familiar(pod.ref)} ({short_digest(pod.image_digest)})"),
        ("Rootfs", str(pod.rootfs)),
        ("Mounted", f"{'yes' if pod.mounted else 'no'}{', read-only' if pod.read_only else ''}"),
        *([("Valid in", f"the namespaces of process {pod.namespace_pid}")] if pod.namespace_pid is not None else []),
        *([("Bundle", str(pod.bundle))] if pod.bundle is not None else []),
        ("Driver", pod.driver),
        ("Created", timestamp(pod.created_at) or ""),
        ("Snapshots", f"{len(pod.chain_ids)}"),
    ]
    return pairs(rows, style=style)
