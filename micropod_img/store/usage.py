"""How many bytes of the disk the images take, and for whom."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING

from micropod_img.errors import UnsupportedError
from micropod_img.reports import ImageUsage, StoreUsage
from micropod_img.store.closure import closure
from micropod_img.store.images import ImageStore

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.models import Image
    from micropod_img.store.store import Store


def measure(store: Store) -> StoreUsage:
    """Return the disk use of a store; a blob that several images share counts once in the whole.

    Raises:
        IntegrityError: An image is damaged, so that nobody can know what it needs.
    """
    return ImageStore(store).consistently(lambda images: _measured(store, images))


def _measured(store: Store, images: ImageStore) -> StoreUsage:
    needed: set[Digest] = set()
    for entry in images.entries:
        needed.update(closure(store.blobs, entry))
    listed: list[Image] = []
    for record in images.records(images.entries):
        with contextlib.suppress(UnsupportedError):  # an artifact that another tool put here
            listed.append(images.image(record))
    by_digest = {image.digest: _blobs_of(image) for image in listed}
    users: Counter[Digest] = Counter(blob for blobs in by_digest.values() for blob in blobs)
    sizes = store.blobs.sizes()

    def usage(image: Image) -> ImageUsage:
        blobs = by_digest[image.digest]
        own = sum(sizes.get(blob, 0) for blob in blobs if users[blob] == 1)
        return ImageUsage(image, shared_bytes=sum(sizes.get(blob, 0) for blob in blobs) - own, own_bytes=own)

    return StoreUsage(
        images=tuple(usage(image) for image in listed),
        image_bytes=sum(size for digest, size in sizes.items() if digest in needed),
        unreferenced_bytes=sum(size for digest, size in sizes.items() if digest not in needed),
        staging_bytes=_tree_bytes(store.layout.staging),
    )


def _blobs_of(image: Image) -> set[Digest]:
    return {image.digest, image.config_digest, *image.layers}


def _tree_bytes(directory: Path) -> int:
    """Return the bytes of files that only this directory holds; hard links of blobs count where the blobs are."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # its owner goes on with its work
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - os.walk speaks strings
                total += status.st_size if status.st_nlink == 1 else 0
    return total
