"""Make a fetched image visible: every blob in its place and durable, then one entry in the index."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.digest import hex_of
from micropod_img.errors import IntegrityError
from micropod_img.oci import Index
from micropod_img.platforms import normalize
from micropod_img.reference import Reference
from micropod_img.store.images import ImageStore
from micropod_img.store.index import Entry, LayoutIndex, new_entry, with_entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.platforms import Platform
    from micropod_img.pull.plan import Plan
    from micropod_img.pull.resolve import Document
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store


@dataclass(frozen=True, slots=True)
class Listing:
    """How an image is listed.

    Attributes:
        reference: Under which name.
        top: The document that the name stands for at the registry.
        platform: What it runs on; None for a whole index.
        configs: The bytes of its configurations, checked.
        path: The indexes between the top and the image: what else there is for other platforms decides later, too.
        restores: An entry that lists the image already and stays as it is.
    """

    reference: Reference
    top: Document
    platform: Platform | None
    configs: Mapping[Digest, bytes]
    path: tuple[Document, ...] = ()
    restores: Entry | None = None


def publish(
    store: Store,
    staging: Staging,
    plan: Plan,
    listing: Listing,
    *,
    timeout: float | None = None,
    cancellation: Cancellation | None = None,
) -> Entry:
    """Put every blob in its place, durably, and then list the image.

    Args:
        store: The store.
        staging: Where the fetch worked; its links keep what others would take away meanwhile.
        plan: What was fetched.
        listing: How it is listed.
        timeout: Seconds to wait for the index at most.
        cancellation: Ends that wait.

    Returns:
        The entry that lists it: its own, or that of a whole index.

    Raises:
        IntegrityError: A layer that was here when the fetch began is gone, by another program's doing.
    """
    small = {one.digest: one.content for one in (*plan.documents, listing.top, *listing.path)} | dict(listing.configs)
    documents = staging.path / "documents"
    with fsutil.disk_errors(documents):
        fsutil.make_directory(documents)
        for digest, content in small.items():
            path = documents / hex_of(digest)
            fsutil.write_durably(path, content)
            store.blobs.publish(path, digest)
    store.blobs.sync()
    owner = f"pull {listing.reference.familiar}"
    with store.index_transaction(owner, timeout=timeout, cancellation=cancellation) as transaction:
        # A gc that ran meanwhile saw no entry that needs them; the staging place has them still.
        for path, digest in _taken_away(store, staging, plan):
            store.blobs.publish(path, digest)
            store.blobs.sync()
        if listing.restores is not None:
            return listing.restores
        index, entry = _listed(store, transaction.index, plan, listing)
        transaction.replace(index)
        return entry


def _taken_away(store: Store, staging: Staging, plan: Plan) -> Iterator[tuple[Path, Digest]]:
    for layer in plan.layers:
        if not store.blobs.has(layer.digest, layer.size):
            path = staging.blobs / hex_of(layer.digest)
            if not path.exists() or path.stat().st_size != layer.size:
                raise IntegrityError(f"layer {layer.digest} was removed meanwhile", code="missing-blob", retryable=True)
            yield path, layer.digest


def _listed(store: Store, index: LayoutIndex, plan: Plan, listing: Listing) -> tuple[LayoutIndex, Entry]:
    top_is_index = isinstance(listing.top.parsed, Index)
    entry = new_entry(
        reference=listing.reference,
        digest=plan.root.digest,
        media_type=plan.root.media_type,
        size=len(plan.root.content),
        platform=None if listing.platform is None else normalize(listing.platform),
        index_digest=listing.top.digest if top_is_index else None,
        pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    whole = [old for old in index.entries if old.is_index and old.reference == entry.reference]
    if entry.is_index or not whole:
        return with_entries(index, [entry]), entry
    for old in whole:
        if old.digest == entry.index_digest:
            return index, old  # it is listed with all its platforms
    # The name moved for one platform; the others, which only the old index listed, are listed one by one.
    return with_entries(index, [*_one_by_one(store, whole), entry]), entry


def _one_by_one(store: Store, whole: list[Entry]) -> Iterator[Entry]:
    images = ImageStore(store)
    # Of an old index that is damaged nothing could be used; it must not keep the new image from being listed.
    with contextlib.suppress(IntegrityError):
        for record in images.records(whole):
            yield new_entry(
                reference=Reference.parse(record.entry.reference),
                digest=record.digest,
                media_type=record.media_type,
                size=record.size,
                platform=images.platform_of(record),
                index_digest=record.entry.index_digest,
                pulled_at=record.entry.pulled_at,
            )
