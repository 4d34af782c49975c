"""Give an image another name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.errors import UsageError
from micropod_img.store.images import ImageStore, distinct_entries
from micropod_img.store.index import renamed, with_entries, without

if TYPE_CHECKING:
    from micropod_img.reference import Reference
    from micropod_img.store.store import Store


def tag_image(store: Store, source: str, destination: Reference) -> None:
    """Let another reference name what a reference or digest names, for every platform that is here.

    Args:
        store: The store.
        source: A reference, digest, or unique prefix of a digest.
        destination: The new reference; what it named before it names no longer.

    Raises:
        NotFoundError: Nothing here is called ``source``.
        UsageError: The destination has a digest, which nobody can choose.
    """
    if destination.digest is not None:
        raise UsageError(
            f"{destination} has a digest, and a digest follows from the content",
            code="invalid-reference",
            hint="give a name and a tag",
        )
    store.prepare()
    with store.index_transaction("tag") as transaction:
        entries = distinct_entries(ImageStore(store).lookup(source))
        index = without(transaction.index, lambda entry: entry.reference == str(destination))
        transaction.replace(with_entries(index, (renamed(entry, destination) for entry in entries)))
