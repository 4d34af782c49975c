from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import IntegrityError, InvalidReference, NotFoundError, UsageError
from micropod_img.reference import Reference
from micropod_img.store.images import ImageStore
from micropod_img.store.tagging import tag_image
from tests.support import stores
from tests.support.images import image, index
from tests.support.layers import layer
from tests.support.layouts import PULLED_AT, listed_as, pulled, put_blobs, write_layout

if TYPE_CHECKING:
    from micropod_img.store.store import Store

BASE = layer({"etc/motd": b"base"})
AMD64 = image([BASE])
ARM64 = image([BASE], platform="linux/arm64")
BOTH = index([AMD64, ARM64])
OTHER = image([BASE], config={"author": "other"})


def tag(store: Store, source: str, destination: str) -> None:
    tag_image(store, source, Reference.parse(destination))


def listed(store: Store) -> list[tuple[str, str]]:
    return [(name.removeprefix("docker.io/library/"), digest) for name, digest in stores.listed(store.layout.root)]


@pytest.mark.parametrize("source", ["app:1", AMD64.digest, AMD64.digest[7:19], f"app@{AMD64.digest}"])
def test_another_name_names_the_same_image(source: str, store: Store) -> None:
    pulled(store, "app:1", AMD64)
    before = stores.inodes(store.layout.root)
    tag(store, source, "localhost:5000/team/copy")
    assert listed(store) == [("app:1", AMD64.digest), ("localhost:5000/team/copy:latest", AMD64.digest)]
    assert stores.inodes(store.layout.root) == before
    assert stores.problems(store.layout.root) == []


@pytest.mark.parametrize("source", ["app:1", BOTH.digest])
def test_a_name_names_every_platform_that_is_here(source: str, store: Store) -> None:
    pulled(store, "app:1", AMD64, top=BOTH)
    pulled(store, "app:1", ARM64, top=BOTH)
    tag(store, source, "copy:1")
    assert listed(store)[2:] == [("copy:1", AMD64.digest), ("copy:1", ARM64.digest)]
    assert stores.problems(store.layout.root) == []


def test_a_digest_names_one_platform(store: Store) -> None:
    pulled(store, "app:1", AMD64, top=BOTH)
    pulled(store, "app:1", ARM64, top=BOTH)
    tag(store, ARM64.digest, "arm:1")
    assert listed(store)[2:] == [("arm:1", ARM64.digest)]


@pytest.mark.parametrize("source", ["app:1", BOTH.digest, f"app@{BOTH.digest}"])
def test_a_whole_index_is_named_as_a_whole(source: str, store: Store) -> None:
    pulled(store, "app:1", BOTH)
    tag(store, source, "copy:1")
    assert listed(store) == [("app:1", BOTH.digest), ("copy:1", BOTH.digest)]


@pytest.mark.parametrize("source", [ARM64.digest, ARM64.digest[7:19], f"app@{ARM64.digest}"])
def test_one_platform_of_a_whole_index_is_named_by_itself(source: str, store: Store) -> None:
    pulled(store, "app:1", BOTH)
    tag(store, source, "arm:1")
    assert listed(store) == [("app:1", BOTH.digest), ("arm:1", ARM64.digest)]
    (record,) = ImageStore(store).find(Reference.parse("arm:1"))
    read = ImageStore(store).image(record)
    assert (str(read.platform), read.index_digest) == ("linux/arm64", BOTH.digest)
    assert stores.entries(store.layout.root)[1]["platform"] == {"os": "linux", "architecture": "arm64"}
    assert stores.problems(store.layout.root) == []


def test_what_the_name_named_before_it_names_no_longer_for_any_platform(store: Store) -> None:
    pulled(store, "app:1", AMD64)
    pulled(store, "copy:1", OTHER)
    pulled(store, "copy:1", ARM64)
    tag(store, "app:1", "copy:1")
    assert listed(store) == [("app:1", AMD64.digest), ("copy:1", AMD64.digest)]
    assert stores.blob_path(store.layout.root, OTHER.digest).exists()  # until gc


def test_an_image_is_given_the_name_that_it_has(store: Store) -> None:
    pulled(store, "app:1", AMD64)
    pulled(store, "app:1", ARM64)
    before = stores.listed(store.layout.root)
    tag(store, "app:1", "app:1")
    assert stores.listed(store.layout.root) == before
    assert stores.problems(store.layout.root) == []


def test_a_named_image_was_pulled_when_it_was(store: Store) -> None:
    pulled(store, "app:1", AMD64)
    tag(store, "app:1", "copy:1")
    assert [one.pulled_at for one in store.read_index().entries] == [PULLED_AT, PULLED_AT]


@pytest.mark.parametrize("ref_name", ["latest", "theirs:1", None])
def test_an_image_of_another_tool_is_given_a_name_and_keeps_its_own(ref_name: str | None, store: Store) -> None:
    put_blobs(store.layout.images, AMD64)
    write_layout(store.layout.images, [listed_as(AMD64, ref_name)])
    before = stores.entries(store.layout.root)
    tag(store, AMD64.digest, "mine:1")
    after = stores.entries(store.layout.root)
    assert after[:1] == before
    assert stores.annotation(after[1], stores.REF_NAME) == "docker.io/library/mine:1"


@pytest.mark.parametrize("source", ["unknown", "app:2", "0" * 64, "beef"])
def test_what_is_not_here_cannot_be_named(source: str, store: Store) -> None:
    pulled(store, "app:1", AMD64)
    before = store.layout.index.read_bytes()
    with pytest.raises(NotFoundError):
        tag(store, source, "copy:1")
    assert store.layout.index.read_bytes() == before


def test_a_digest_cannot_be_given(store: Store) -> None:
    pulled(store, "app:1", AMD64)
    with pytest.raises(UsageError, match="follows from the content"):
        tag(store, "app:1", f"copy@{AMD64.digest}")
    with pytest.raises(InvalidReference):
        tag(store, "App:1", "copy:1")


def test_a_damaged_image_gets_no_other_name(store: Store) -> None:
    pulled(store, "app:1", AMD64)
    store.layout.blob(AMD64.digest).unlink()
    with pytest.raises(IntegrityError):
        tag(store, "app:1", "copy:1")
    assert [entry.reference for entry in store.read_index().entries] == ["docker.io/library/app:1"]
