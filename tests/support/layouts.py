"""Stores and OCI layouts filled without a registry, from the images that `tests.support.images` makes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from micropod_img.platforms import Platform
from micropod_img.reference import Reference
from micropod_img.store.index import new_entry, with_entries
from tests.support.stores import REF_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from micropod_img.store.index import Entry
    from micropod_img.store.store import Store
    from tests.support.images import Manifest
    from tests.support.layers import Blob

PULLED_AT = "2024-03-01T08:30:00+00:00"


def put_blobs(layout: Path, *documents: Manifest) -> None:
    """Write documents, and everything below them, as blobs of a layout."""
    for document in documents:
        for blob in (*document.blobs, *document.manifests, document):
            put_blob(layout, blob)


def put_blob(layout: Path, blob: Blob) -> Path:
    path = layout / "blobs" / "sha256" / blob.digest.removeprefix("sha256:")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob.content)
    path.chmod(0o644)
    return path


def write_layout(layout: Path, listed: Sequence[Mapping[str, object]], **members: object) -> None:
    """Write ``oci-layout`` and ``index.json`` as another tool would, with these descriptors."""
    layout.mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(listed), **members}))


def listed_as(document: Manifest, ref_name: str | None = None, **members: object) -> dict[str, object]:
    """A descriptor as another tool would put it into ``index.json``."""
    descriptor = {key: value for key, value in document.descriptor.items() if key != "platform"}
    return {**descriptor, **({"annotations": {REF_NAME: ref_name}} if ref_name is not None else {}), **members}


def pulled(
    store: Store,
    reference: str,
    document: Manifest,
    *,
    top: Manifest | None = None,
    pulled_at: str = PULLED_AT,
) -> Entry:
    """Put an image, or a whole index, into a store and list it, as a pull leaves it.

    Args:
        store: The store, which is made if need be.
        reference: Its name.
        document: The image or index.
        top: The index that it came from, which is kept beside it.
        pulled_at: When.
    """
    store.prepare()
    put_blobs(store.layout.images, document)
    if top is not None:
        put_blob(store.layout.images, top)
    entry = new_entry(
        reference=Reference.parse(reference),
        digest=document.digest,
        media_type=document.media_type,
        size=document.size,
        platform=Platform.parse(document.platform) if document.platform else None,
        index_digest=top.digest if top else document.digest if document.children else None,
        pulled_at=pulled_at,
    )
    with store.index_transaction("test") as transaction:
        transaction.replace(with_entries(transaction.index, [entry]))
    return entry
