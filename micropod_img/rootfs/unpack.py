"""Unpack an image to a plain, self-contained directory, which appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.errors import ConflictError, DiskError, NotFoundError, UsageError
from micropod_img.rootfs.gated import GatedLayers
from micropod_img.rootfs.layer_source import HeldLayers
from micropod_img.rootfs.syscalls import sync_filesystem
from micropod_img.rootfs.umoci import UnpackRoot
from micropod_img.store.holding import hold_layers, read_config
from micropod_img.store.staging import private_name, sweep_private
from micropod_img.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from micropod_img.models import Image
    from micropod_img.rootfs.layer_blobs import LayerBlob
    from micropod_img.rootfs.snapshots import Call
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store

_GATES = 2


def unpack_image(store: Store, image: Image, destination: Path, *, umoci: Path, call: Call) -> Path:
    """Unpack all layers of an image.

    Args:
        store: The store that has it.
        image: The image.
        destination: A directory that does not exist or is empty; its parent exists.
        umoci: The program.
        call: For whom.

    Returns:
        The destination, absolute and without links.

    Raises:
        ConflictError: There is something at the destination.
        UsageError: It is inside of the store.
        MicropodError: As `micropod_img.rootfs.snapshots.Snapshots.ensure`.
    """
    target = checked_destination(destination, store)
    with store.stage("unpack") as staging, _beside(target, staging) as (place, lock):
        layers = _passed_layers(store, image, staging, call, place)
        root = UnpackRoot(place, umoci=umoci, keep_open=(lock,))
        config = read_config(store, image)
        root.unpack_image(layers, config=config, cancellation=call.cancellation)
        with fsutil.disk_errors(target):
            sync_filesystem(root.rootfs)
            _give_name(root.rootfs, target)
            fsutil.fsync_directory(target.parent)
    return target


def checked_destination(destination: Path, store: Store) -> Path:
    """Return a destination, absolute and without links; what killed processes left beside it is removed.

    Raises:
        ConflictError: There is something, or a filesystem is mounted there.
        NotFoundError: It has no parent directory.
        UsageError: It is inside of the store.
    """
    target = destination.resolve()
    if target.is_relative_to(store.layout.root.resolve()):
        raise UsageError(f"{destination} is inside of the store", hint="choose a directory elsewhere")
    with fsutil.disk_errors(target):
        if not target.parent.is_dir():
            raise NotFoundError(f"{target.parent} is not a directory", code="no-such-directory", hint="make it first")
        _sweep_beside(target)
        if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
            raise _occupied(target)
        if target.is_mount():
            raise ConflictError(
                f"{target} is a mount point, and the files would appear there one by one",
                code="destination-mounted",
                hint=f"choose a directory in it, such as {target / 'rootfs'}",
            )
    return target


def _occupied(target: Path) -> ConflictError:
    return ConflictError(
        f"{target} exists and is not an empty directory", code="destination-exists", hint="choose another, or remove it"
    )


def _passed_layers(store: Store, image: Image, staging: Staging, call: Call, place: Path) -> list[LayerBlob]:
    blobs = staging.path / "layers"
    hold_layers(store, image, blobs)
    with GatedLayers(image.layer_details, HeldLayers(blobs), call, at_once=_GATES) as gated:
        positions = range(len(image.layers))
        for position in positions:
            gated.look_at(position)
        passed = [gated.passed(position) for position in positions]
    # Later layers may take away what earlier ones brought, but each is there as a whole at one time.
    largest = max((one.report.unpacked_size for one in passed), default=0)
    fsutil.require_space(place.parent, largest, for_what=f"a layer of {call.ref}")
    return [one.blob for one in passed]


@contextlib.contextmanager
def _beside(target: Path, staging: Staging) -> Iterator[tuple[Path, int]]:
    """Make a private directory next to the destination.

    Yields:
        The directory, and the descriptor of the lock on it.
    """
    place = target.parent / private_name(target)
    staging.note_elsewhere(place)
    descriptor = -1
    try:
        with fsutil.disk_errors(target.parent):
            while descriptor < 0:
                place.mkdir(mode=0o700, exist_ok=True)
                descriptor = _locked(place)
        yield place, descriptor
    finally:
        fsutil.insist(lambda: remove_tree(place))
        if descriptor >= 0:
            os.close(descriptor)


def _locked(place: Path) -> int:
    """Lock a directory just made; return -1 if another process saw it before that, and took it for a leftover."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    if fsutil.try_lock(descriptor) and fsutil.same_file(descriptor, place):
        return descriptor
    os.close(descriptor)
    return -1


def _sweep_beside(target: Path) -> None:
    """Remove what killed processes left in the destination's parent; what cannot be is left for another time."""
    for path in target.parent.glob(".*.micropod-*"):
        with contextlib.suppress(OSError, DiskError):
            sweep_private(path)


def _give_name(rootfs: Path, target: Path) -> None:
    try:
        rootfs.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise _occupied(target) from error
        raise
