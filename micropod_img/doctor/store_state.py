"""The store, and the filesystem that it is on or will be made on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import fsutil
from micropod_img.diagnosis import Finding, fine, problem, warning
from micropod_img.errors import DiskError, IntegrityError, MicropodError, ToolError
from micropod_img.render.text import counted, size
from micropod_img.rootfs.mountinfo import mount_of, mount_points
from micropod_img.rootfs.pods import Pods
from micropod_img.store.blobs import is_hex
from micropod_img.store.images import ImageStore
from micropod_img.store.layout import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.diagnosis import Facts
    from micropod_img.store.layout import StoreLayout
    from micropod_img.store.store import Store

_OTHERS: Final = 0o077
_SCARCE_BYTES: Final = 1 << 30
_FULL_BYTES: Final = 16 << 20
_SCARCE_INODES: Final = 10_000
_FULL_INODES: Final = 100
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_OVER_A_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "afs"})


def nearest_directory(path: Path) -> Path:
    """Return a directory if it is there, and else the nearest one above that is."""
    for place in (path, *path.parents):
        if os.path.isdir(place):  # noqa: PTH112 - Path.is_dir raises where nobody may look
            return place
    return Path("/")


def findings(store: Store) -> Iterator[Finding]:
    """Look at a store that can be used, or that is not there yet.

    Args:
        store: The store, opened.

    Raises:
        MicropodError: It cannot be read, or something else is there.
    """
    layout = store.layout
    _refuse_closed(layout)
    if not (layout.exists() or layout.version.exists()):
        layout.refuse_what_is_no_store()
        yield _future(layout)
        return
    if layout.root.stat().st_mode & _OTHERS:
        yield warning(
            "store",
            f"{layout.root} can be entered by others, and holds setuid programs and private images",
            f"chmod 0700 {layout.root}",
            path=str(layout.root),
        )
    yield _one_filesystem(layout)
    yield _contents(store)


def _refuse_closed(layout: StoreLayout) -> None:
    """Raise `DiskError` for the first directory of a store that its owner cannot use."""
    parts = (layout.images, layout.blobs, layout.staging, layout.locks, layout.pods, layout.snapshots)
    for directory in (layout.root, *parts):
        if not os.path.isdir(directory):  # noqa: PTH112 - Path.is_dir raises where nobody may look
            continue
        wanted = os.R_OK | os.X_OK | (0 if os.statvfs(directory).f_flag & os.ST_RDONLY else os.W_OK)
        if not os.access(directory, wanted):
            raise DiskError(f"{directory}: permission denied", code="permission", hint=f"chmod 0700 {directory}")


def _future(layout: StoreLayout) -> Finding:
    place = nearest_directory(layout.root)
    if not os.access(place, os.W_OK | os.X_OK):
        hint = "run as root, or choose another --root"
        error = DiskError(f"{layout.root} is not there, and you cannot write to {place}", code="permission", hint=hint)
        return problem("store", error, path=str(layout.root))
    return fine("store", f"{layout.root} is not there yet; the first pull makes it", path=str(layout.root), format=None)


def _contents(store: Store) -> Finding:
    images = ImageStore(store)
    broken: list[tuple[str, MicropodError]] = []
    entries = store.read_index().entries
    for entry in entries:
        try:
            for record in images.records([entry]):
                images.image(record)
        except MicropodError as error:
            broken.append((entry.reference or entry.digest, error))
    pods = sum(1 for _ in Pods(store).records())
    snapshots = sum(1 for path in _names_in(store.layout.snapshots) if is_hex(path))
    blob_bytes = sum(store.blobs.sizes().values())
    root = str(store.layout.root)
    if broken:
        name, first = broken[0]
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        damaged = IntegrityError(
            f"{name} is damaged{more}: {first.message}",
            code=first.code,
            hint="micropod-img verify says what else is, verify --repair puts right what can be",
        )
        return problem("store", damaged, path=root, format=FORMAT)
    numbers = ", ".join((counted(len(entries), "image"), counted(snapshots, "snapshot"), counted(pods, "pod")))
    facts: Facts = {"images": len(entries), "blob_bytes": blob_bytes, "snapshots": snapshots, "pods": pods}
    return fine(
        "store", f"{root}, format {FORMAT}: {numbers}, {size(blob_bytes)} of blobs", path=root, format=FORMAT, **facts
    )


def _names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def _one_filesystem(layout: StoreLayout) -> Finding:
    subject = "one-filesystem"
    root = layout.root.resolve()
    inside = sorted(
        str(path)
        for path in mount_points()
        if path != root and path.is_relative_to(root) and not path.is_relative_to(root / layout.pods.name)
    )
    devices = {path.stat().st_dev for path in (layout.images, layout.blobs, layout.staging) if path.exists()}
    if inside or len(devices) > 1:
        what = f": {inside[0]} is a mount of its own" if inside else ""
        error = DiskError(
            f"images/, snapshots/ and tmp/ must be on one filesystem{what}",
            code="several-filesystems",
            hint="mount the whole state directory, not a part of it",
        )
        return problem(subject, error)
    return fine(subject, "images/, snapshots/ and tmp/ are on one")


def filesystem(root: Path, place: Path) -> Finding:
    """Judge the filesystem of a store.

    Args:
        root: The state directory.
        place: It, or the nearest directory above that is there.
    """
    subject = "filesystem"
    mount = mount_of(place)
    kind = mount.kind
    flags = os.statvfs(place).f_flag
    facts: Facts = {"type": kind, "mounted_at": str(mount.path)}
    if flags & os.ST_RDONLY:
        error = DiskError(f"{place}: the filesystem is read-only", code="read-only", hint="choose another --root")
        return problem(subject, error, **facts)
    if flags & os.ST_NOEXEC:
        unusable = ToolError(
            f"{root} is on a filesystem mounted noexec, and umoci is started from there to unpack an image",
            code="noexec",
            hint="mount it without noexec, or choose another --root; pulling works all the same",
        )
        return problem(subject, unusable, **facts)
    if kind in _IN_MEMORY:
        return warning(subject, f"{kind}: the store is in memory, and gone after a reboot", None, **facts)
    if kind in _OVER_A_NETWORK:
        message = f"{kind}: locks, hard links and overlays need what a filesystem over a network may not have"
        return warning(subject, message, "choose a --root on a disk of this machine", **facts)
    return fine(subject, kind, **facts)


def space(place: Path) -> Finding:
    """Say how much room there is.

    Args:
        place: A directory on the store's filesystem.
    """
    subject = "space"
    free = fsutil.free_space(place)
    facts: Facts = {"free_bytes": free.size, "free_inodes": free.files}
    # btrfs makes inodes as it needs them.
    number = "inodes without limit" if free.files is None else f"{free.files} inodes"
    message = f"{size(free.size)} and {number} are free"
    if free.size == sys.maxsize:
        return fine(subject, "the filesystem does not say how much is free", **facts)
    hint = "micropod-img gc frees what no image needs, micropod-img df says which images are large"
    if free.size < _FULL_BYTES or (free.files is not None and free.files < _FULL_INODES):
        return problem(subject, DiskError(message, code="disk-full", hint=hint), **facts)
    if free.size < _SCARCE_BYTES or (free.files is not None and free.files < _SCARCE_INODES):
        return warning(subject, message, hint, **facts)
    return fine(subject, message, **facts)
