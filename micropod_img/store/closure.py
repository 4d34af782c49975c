"""Which blobs an entry of the index needs: removal leaves them alone, and an image is whole when all are here."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from micropod_img import media_types
from micropod_img.errors import IntegrityError
from micropod_img.store.documents import StoredIndex, StoredManifest, read_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.digest import Digest
    from micropod_img.store.blobs import BlobStore
    from micropod_img.store.index import Entry


def closure(blobs: BlobStore, entry: Entry) -> dict[Digest, int]:
    """Return every blob that an entry needs, with its size in bytes.

    Of an index that another tool put here, with some of its images only, those are left out that are not here: what
    ``docker save`` writes is like that.

    Args:
        blobs: The blobs of the store.
        entry: One of its index.

    Raises:
        IntegrityError: A document on the way is missing or corrupt, so that nobody can know.
    """
    if is_of_others(blobs, entry):
        return {entry.digest: entry.size}
    needed: dict[Digest, int] = {}
    top = entry.index_digest
    if top is not None and top != entry.digest:
        with contextlib.suppress(IntegrityError):
            needed.update(_indexes(blobs, top))
    _collect(blobs, entry.digest, entry.size, needed, sparse=not entry.pulled_at)
    return needed


def is_of_others(blobs: BlobStore, entry: Entry) -> bool:
    """Whether an entry is to be passed over (image-index.md, ``mediaType``): of another type, and no manifest."""
    if entry.media_type in media_types.INDEXES | media_types.MANIFESTS | {""}:
        return False
    try:
        read_document(blobs.read(entry.digest), f"blob {entry.digest}")
    except IntegrityError:
        return True
    return False


def _indexes(blobs: BlobStore, digest: Digest) -> Iterator[tuple[Digest, int]]:
    """Yield an index and those in it, as far as they are here: they tell what an image was chosen from."""
    content = blobs.read(digest)
    yield digest, len(content)
    document = read_document(content, f"index {digest}")
    for child in document.manifests if isinstance(document, StoredIndex) else ():
        if child.media_type in media_types.INDEXES:
            with contextlib.suppress(IntegrityError):
                yield from _indexes(blobs, child.digest)


def _collect(blobs: BlobStore, digest: Digest, size: int, needed: dict[Digest, int], *, sparse: bool) -> None:
    if digest in needed:
        return
    document = read_document(blobs.read(digest, size=size), f"blob {digest}")
    needed[digest] = size
    if isinstance(document, StoredManifest):
        needed[document.config.digest] = document.config.size
        needed.update((layer.digest, layer.size) for layer in document.layers)
        return
    for child in document.manifests:
        is_here = not sparse or blobs.exists(child.digest)
        if is_here and child.media_type in media_types.INDEXES | media_types.MANIFESTS | {""}:
            _collect(blobs, child.digest, child.size, needed, sparse=sparse)
        else:
            needed[child.digest] = child.size
