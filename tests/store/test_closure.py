"""Which blobs an entry of the index needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import IntegrityError
from micropod_img.store.closure import closure
from tests.support.images import artifact, attestation, image, index
from tests.support.layers import layer
from tests.support.layouts import listed_as, pulled, put_blob, put_blobs, write_layout

if TYPE_CHECKING:
    from micropod_img.store.images import ImageStore
    from micropod_img.store.store import Store

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"}, compression="zstd")
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64/v8")
BOTH = index([AMD64, ARM64])
CONFIG = next(AMD64.own_blobs())


def test_an_image_needs_its_manifest_configuration_layers_and_the_index_that_it_came_from(store: Store) -> None:
    entry = pulled(store, "app:1", AMD64, top=BOTH)
    assert closure(store.blobs, entry) == {blob.digest: blob.size for blob in (BOTH, AMD64, CONFIG, BASE, TOP)}


def test_a_whole_index_needs_everything_below_it(store: Store) -> None:
    top = index([index([AMD64]), ARM64, attestation(AMD64), artifact()])
    entry = pulled(store, "app:1", top)
    everything = {blob.digest: blob.size for blob in (*top.blobs, *top.manifests, top)}
    assert closure(store.blobs, entry) == everything == store.blobs.sizes()


def test_a_child_that_its_index_gives_no_media_type_is_needed_with_all_below_it(store: Store) -> None:
    entry = pulled(store, "app:1", index([AMD64], overrides={AMD64.digest: {"mediaType": ""}}))
    assert {BASE.digest, TOP.digest, CONFIG.digest} <= set(closure(store.blobs, entry))


@pytest.mark.parametrize("how", ["missing", "corrupt"])
@pytest.mark.parametrize("whole", [False, True], ids=["one image", "a whole index"])
def test_what_a_damaged_image_needs_nobody_can_know(how: str, store: Store, *, whole: bool) -> None:
    entry = pulled(store, "app:1", BOTH if whole else AMD64)
    path = store.layout.blob(AMD64.digest)
    path.unlink()
    if how == "corrupt":
        path.write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        closure(store.blobs, entry)


def test_an_index_that_another_tool_copied_in_part_needs_what_is_here(store: Store, images: ImageStore) -> None:
    """``docker save`` lists all platforms and holds one."""
    put_blobs(store.layout.images, AMD64)
    put_blob(store.layout.images, BOTH)
    write_layout(store.layout.images, [listed_as(BOTH, "app:1")])
    (entry,) = store.read_index().entries
    needed = set(closure(store.blobs, entry))
    assert {BOTH.digest, AMD64.digest, CONFIG.digest, BASE.digest, TOP.digest} <= needed
    assert images.image(next(images.records([entry]))).ref == "docker.io/library/app:1"
    store.layout.blob(AMD64.digest).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        closure(store.blobs, entry)
