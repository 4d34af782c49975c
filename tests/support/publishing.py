"""An image put into a store as a pull puts it there, step by step and without a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.reference import Reference
from micropod_img.store.index import new_entry, with_entries
from tests.support.layouts import PULLED_AT

if TYPE_CHECKING:
    from micropod_img.store.store import Store
    from tests.support.images import Manifest


def publish(store: Store, reference: str, document: Manifest) -> None:
    """Stage every blob, publish it, and list the image last, while others do what they like."""
    with store.stage("pull") as staging:
        for blob in (*document.blobs, document):
            path = staging.path / blob.digest.removeprefix("sha256:")
            path.write_bytes(blob.content)
            store.blobs.publish(path, blob.digest)
        store.blobs.sync()
        entry = new_entry(
            reference=Reference.parse(reference),
            digest=document.digest,
            media_type=document.media_type,
            size=document.size,
            platform=None,
            index_digest=None,
            pulled_at=PULLED_AT,
        )
        with store.index_transaction("pull") as transaction:
            transaction.replace(with_entries(transaction.index, [entry]))
