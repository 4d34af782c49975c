"""Give an image another name."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from micropod_img import media_types
from micropod_img.errors import UnsupportedError, UsageError
from micropod_img.store.blobs import missing_blob
from micropod_img.store.closure import closure
from micropod_img.store.images import ImageStore, distinct_entries, part_of_index
from micropod_img.store.index import new_entry, renamed, with_entries, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from micropod_img.platforms import Platform
    from micropod_img.reference import Reference
    from micropod_img.store.images import Record
    from micropod_img.store.index import Entry
    from micropod_img.store.store import Store


def tag_image(store: Store, source: str, destination: Reference) -> None:
    """Let another reference name what a reference names, for every platform that is here, or what a digest names.

    Args:
        store: The store.
        source: A reference, digest, or unique prefix of a digest.
        destination: The new reference; what it named before it names no longer.

    Raises:
        NotFoundError: Nothing here is called ``source``.
        IntegrityError: What is called ``source`` is damaged.
        UsageError: The destination has a digest, which nobody can choose.
    """
    if destination.digest is not None:
        raise UsageError(
            f"{destination} has a digest, and a digest follows from the content",
            code="invalid-reference",
            hint="give a name and a tag",
        )
    store.prepare()
    images = ImageStore(store)
    with store.index_transaction("tag") as transaction:
        records = images.lookup(source)
        part = part_of_index(source, records)
        _require_whole(store, images, records)
        entries = (
            [renamed(entry, destination) for entry in distinct_entries(records)]
            if part is None
            else [_entry_of(part, images.platform_of(part), destination)]
        )
        index = without(transaction.index, lambda entry: entry.reference == str(destination))
        transaction.replace(with_entries(index, entries))


def _require_whole(store: Store, images: ImageStore, records: Sequence[Record]) -> None:
    for record in records:
        with contextlib.suppress(UnsupportedError):  # an artifact that another tool put here
            images.image(record)
    for entry in distinct_entries(records):
        for digest, size in closure(store.blobs, entry).items():
            if not store.blobs.has(digest, size):
                raise missing_blob(digest)


def _entry_of(record: Record, platform: Platform, reference: Reference) -> Entry:
    return new_entry(
        reference=reference,
        digest=record.digest,
        media_type=record.media_type or media_types.OCI_MANIFEST,
        size=record.size,
        platform=platform,
        index_digest=record.entry.index_digest,
        pulled_at=record.entry.pulled_at,
    )
