"""Remove snapshots that nobody needs: no listed image, no pod, no mount, no work in progress."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.digest import Digest, hex_of
from micropod_img.errors import IntegrityError, UnsupportedError
from micropod_img.models import DeleteResult
from micropod_img.rootfs.chain import ChainId, chain_ids
from micropod_img.rootfs.leases import no_new_leases
from micropod_img.rootfs.lower_directories import rename_unless_lower
from micropod_img.rootfs.mountinfo import mount_points
from micropod_img.rootfs.mounts import snapshot_of
from micropod_img.rootfs.pods import Pods
from micropod_img.store.blobs import is_hex
from micropod_img.store.images import ImageStore
from micropod_img.store.trees import disk_usage, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.store.layout import StoreLayout
    from micropod_img.store.store import Store


def collect_snapshots(store: Store) -> DeleteResult:
    """Remove the snapshots that are in nobody's chain.

    Args:
        store: The store, prepared for writing.

    Returns:
        The chain IDs of what was removed, and the bytes that this freed.

    Raises:
        IntegrityError: The record of a pod is corrupt, so that nobody can know which snapshots it needs.
    """
    if not store.layout.snapshots.exists():
        return DeleteResult((), 0)
    return store.freeing(lambda: _collect_snapshots(store))


def _collect_snapshots(store: Store) -> DeleteResult:
    layout = store.layout
    # Removing takes longer than others should wait for the lock, so it is only renamed while that is held.
    with store.stage("trash") as trash:
        with no_new_leases(layout, store.on_wait) as leased, fsutil.disk_errors(layout.snapshots):
            # A pod has its record before its lease ends, so it is in one of the two when they are read in this order.
            live = leased | frozenset(_live(store))
            doomed = [
                chain
                for chain in _present(layout)
                # What a container's image brought along takes no room in here, and stays.
                if chain not in live and rename_unless_lower(layout.snapshot(chain), trash.path / hex_of(chain))
            ]
        _remove_dangling_links(layout)
        moved = [trash.path / hex_of(chain) for chain in doomed]
        freed = sum(disk_usage(place) for place in moved)
        for place in moved:
            remove_tree(place)
        return DeleteResult(tuple(doomed), freed)


def snapshots_in_use(store: Store) -> bool:
    """Whether anybody needs any snapshot: a pod, a mount that this process sees, work in progress.

    Raises:
        IntegrityError: The record of a pod is corrupt.
    """
    return any(True for _ in Pods(store).records()) or snapshots_at_work(store)


def snapshots_at_work(store: Store) -> bool:
    """Whether work in progress, or a mount that this process sees, needs any snapshot."""
    layout = store.layout
    with no_new_leases(layout, store.on_wait) as leased:
        return bool(leased) or any(layout.snapshot(one).exists() for one in mounted_snapshots(layout))


def _present(layout: StoreLayout) -> list[ChainId]:
    return [ChainId(Digest(f"sha256:{path.name}")) for path in layout.snapshots.iterdir() if is_hex(path.name)]


def _live(store: Store) -> Iterator[ChainId]:
    for record in Pods(store).records():
        yield from record.chain_ids
    images = ImageStore(store)
    for entry in store.read_index().entries:
        # The snapshots of a damaged image can be made again once it was pulled again; its pods keep theirs.
        with contextlib.suppress(IntegrityError, UnsupportedError):
            for listed in images.records([entry]):
                yield from chain_ids(layer.diff_id for layer in images.image(listed).layer_details)
    yield from mounted_snapshots(store.layout)


def mounted_snapshots(layout: StoreLayout) -> Iterator[ChainId]:
    """Yield what the mounts that this process sees are made of, as far as snapshots say what they were made on."""
    for mount in mount_points().values():
        name = snapshot_of(mount)
        if name is not None and is_hex(name):
            yield from _ancestry(layout, ChainId(Digest(f"sha256:{name}")))


def _ancestry(layout: StoreLayout, chain: ChainId) -> Iterator[ChainId]:
    text = str(chain)
    while text:
        yield ChainId(Digest(text))
        try:
            text = (layout.snapshot(Digest(text)) / "parent").read_text()
        except FileNotFoundError:  # a mount of another store's snapshot
            return


def _remove_dangling_links(layout: StoreLayout) -> None:
    with contextlib.suppress(FileNotFoundError):
        for link in layout.snapshot_links.iterdir():
            if link.is_symlink() and not link.exists():
                link.unlink(missing_ok=True)
