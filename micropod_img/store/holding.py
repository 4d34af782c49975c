"""Keep the blobs of an image for as long as they are worked with, whoever removes the image meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.digest import hex_of
from micropod_img.errors import IntegrityError, NotFoundError
from micropod_img.store.blobs import missing_blob
from micropod_img.store.images import ImageStore

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.models import Image
    from micropod_img.store.store import Store


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
        store.blobs.link_into(directory, image.layers)
        for layer in image.layers:
            if not (directory / hex_of(layer)).exists():
                raise _missing(store, image, missing_blob(layer))


def read_config(store: Store, image: Image) -> bytes:
    """Return the configuration of an image, its bytes checked.

    Raises:
        NotFoundError: The image was removed meanwhile.
        IntegrityError: It is listed, and its configuration is missing or corrupt.
    """
    try:
        return store.blobs.read(image.config_digest)
    except IntegrityError as error:
        raise _missing(store, image, error) from error


def _missing(store: Store, image: Image, error: IntegrityError) -> IntegrityError | NotFoundError:
    listed = {record.digest for record in ImageStore(store).records(store.read_index().entries)}
    if image.digest in listed:
        return error
    name = image.ref or image.digest
    return NotFoundError(
        f"{name} was removed meanwhile", code="image-not-found", hint=f"micropod-img pull {name}", retryable=True
    )
