"""Keep the blobs of an image for as long as they are worked with, whoever removes the image meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from micropod_img import fsutil
from micropod_img.digest import hex_of
from micropod_img.errors import IntegrityError, NotFoundError
from micropod_img.store.blobs import missing_blob
from micropod_img.store.images import ImageStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.models import Image
    from micropod_img.store.store import Store

_Taken = TypeVar("_Taken")


def hold_layers(store: Store, image: Image, directory: Path) -> None:
    """Link all layers of an image into a staging place.

    Args:
        store: The store that has the image.
        image: The image.
        directory: Is made; each layer is named there by its hex digits.

    Raises:
        NotFoundError: The image was removed meanwhile.
        IntegrityError: It is listed, and a layer is missing.
    """
    with fsutil.disk_errors(directory):
        directory.mkdir()

    def link() -> None:
        store.blobs.link_into(directory, image.layers)
        for layer in image.layers:
            if not (directory / hex_of(layer)).exists():
                raise missing_blob(layer)

    _of_what_is_listed(store, image, link)


def read_config(store: Store, image: Image) -> bytes:
    """Return the configuration of an image, its bytes checked.

    Raises:
        NotFoundError: The image was removed meanwhile.
        IntegrityError: It is listed, and its configuration is missing or corrupt.
    """
    return _of_what_is_listed(store, image, lambda: store.blobs.read(image.config_digest))


def _of_what_is_listed(store: Store, image: Image, take: Callable[[], _Taken]) -> _Taken:
    """Take something of an image; again, where the index was replaced and it was not to be had."""
    failure: IntegrityError | None = None
    listed: set[Digest] = set()
    for index in store.indexes():
        try:
            return take()
        except IntegrityError as error:
            failure = error
            listed = {record.digest for record in ImageStore(store).records(index.entries)}
    assert failure is not None  # noqa: S101 - for the type checker: there is one index at least
    if image.digest in listed:
        raise failure
    name = image.ref or image.digest
    raise NotFoundError(
        f"{name} was removed meanwhile", code="image-not-found", hint=f"micropod-img pull {name}", retryable=True
    ) from failure
