"""Images put straight into a store, without a registry; and a service whose pods go when the test does."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from micropod_img.platforms import Platform
from micropod_img.reference import Reference
from micropod_img.service import ImageService
from micropod_img.store.index import new_entry, with_entries
from micropod_img.store.store import Store
from tests.rootfs.tar_layers import GZIP_LAYER, stored
from tests.rootfs.unpacking import archive_of
from tests.support.images import image
from tests.support.layers import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.images import Manifest
    from tests.support.layers import Entry

_numbers = itertools.count()


class LocalService(ImageService):
    """A service whose images come from the test."""

    def put(self, manifest: Manifest, ref: str = "") -> str:
        """List an image; return its reference."""
        ref = ref or f"local/image:{next(_numbers)}"
        put_image(self.root, manifest, ref)
        return ref

    def put_layers(self, *archives: Sequence[Entry | bytes], ref: str = "") -> str:
        """List an image of archives, bottom to top; return its reference."""
        return self.put(image([gzip_layer(parts) for parts in archives]), ref)

    def end(self) -> None:
        for pod in self.list_pods():
            self.remove_pod(pod.id)


def gzip_layer(parts: Sequence[Entry | bytes]) -> Layer:
    made = stored(archive_of(parts))
    return Layer(GZIP_LAYER, made.content, diff_id=made.diff_id)


def put_image(root: Path, manifest: Manifest, ref: str) -> None:
    """Publish all blobs of an image and list it."""
    store = Store(root)
    store.prepare()
    with store.stage("test") as staging:
        for blob in (*manifest.blobs, manifest):
            path = staging.path / blob.digest.partition(":")[2]
            path.write_bytes(blob.content)
            store.blobs.publish(path, blob.digest)
    entry = new_entry(
        reference=Reference.parse(ref),
        digest=manifest.digest,
        media_type=manifest.media_type,
        size=manifest.size,
        platform=Platform.parse(manifest.platform or "linux/amd64"),
        index_digest=None,
        pulled_at="2024-02-29T12:00:00+00:00",
    )
    with store.index_transaction("test") as transaction:
        transaction.replace(with_entries(transaction.index, [entry]))
