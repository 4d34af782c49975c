"""Layouts that crane and skopeo write are used as they stand, and what we write there they read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import Platform
from micropod_img.reference import Reference
from micropod_img.store.images import ImageStore
from micropod_img.store.removal import collect_garbage, remove_images
from micropod_img.store.store import Store
from micropod_img.store.tagging import tag_image
from micropod_img.store.usage import measure
from tests.support import stores
from tests.support.images import attestation, image, index
from tests.support.layers import layer
from tests.support.layouts import pulled
from tests.support.processes import require_program, run
from tests.support.push import push

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.models import Image
    from tests.support.registries import Registry

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64/v8")
BOTH = index([AMD64, ARM64, attestation(AMD64)])
DOCKER = index([image([BASE, TOP], docker=True), image([BASE], docker=True, platform="linux/arm/v7")], docker=True)
OTHER = image([BASE, layer({"etc/hosts": b"other"})])


@pytest.fixture
def source(crane_registry: Registry, repository: str) -> str:
    """An image for several platforms, at a registry."""
    return push(crane_registry, repository, "1", BOTH)


@pytest.fixture
def skopeo() -> str:
    return require_program("skopeo", package="skopeo")


def adopted(root: Path) -> list[Image]:
    """The images of a layout: as it is listed before anything is written, and the same afterwards."""
    before = (root / "images" / "index.json").read_bytes()
    store = Store(root)
    found = all_images(store)
    store.prepare()
    assert (root / "images" / "index.json").read_bytes() == before
    assert all_images(store) == found
    return found


def all_images(store: Store) -> list[Image]:
    images = ImageStore(store)
    return [images.image(record) for record in images.records(store.read_index().entries)]


def copy(skopeo: str, source: str, root: Path, name: str, *options: str) -> None:
    target = f"oci:{root}/images{name}"
    run(skopeo, "copy", "--src-tls-verify=false", *options, f"docker://{source}", target).check_returncode()


def everything(*documents: object) -> set[str]:
    return {blob.digest for one in documents for blob in (*one.blobs, *one.manifests, one)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        pytest.param(":alpine:3", "docker.io/library/alpine:3", id="name and tag"),
        pytest.param(":docker.io/library/alpine:latest", "docker.io/library/alpine:latest", id="canonical"),
        pytest.param(":localhost:5000/team/app:1", "localhost:5000/team/app:1", id="registry"),
        pytest.param(":latest", "", id="a bare tag"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_a_layout_that_skopeo_wrote_is_listed_found_tagged_and_removed(
    name: str, reference: str, skopeo: str, source: str, store_root: Path
) -> None:
    copy(skopeo, source, store_root, name, "--override-arch=amd64")
    (found,) = adopted(store_root)
    assert (found.ref, found.digest, str(found.platform)) == (reference, AMD64.digest, "linux/amd64")
    assert found.pulled_at is None
    store = Store(store_root)
    images = ImageStore(store)
    (record,) = images.lookup(reference or AMD64.digest)
    assert images.choose([record], Platform("linux", "amd64"), strict=True) == record
    assert images.choose([record], Platform("linux", "arm64")) is None
    assert measure(store).image_bytes == found.size
    assert collect_garbage(store).removed == ()

    tag_image(store, reference or AMD64.digest[:20], Reference.parse("mine:1"))
    for known in ("docker.io/library/mine:1", name[1:]):
        if known:
            inspected = run(skopeo, "inspect", f"oci:{store_root}/images:{known}")
            assert json.loads(inspected.stdout)["Digest"] == AMD64.digest, inspected.stderr

    remove_images(store, ["mine:1"])
    assert [one.ref for one in all_images(store)] == [reference]
    assert remove_images(store, [reference or AMD64.digest]).freed_bytes == found.size
    assert stores.blobs(store_root) == set()


def test_all_platforms_that_skopeo_copied_are_listed_and_removed_together(
    skopeo: str, source: str, store_root: Path
) -> None:
    copy(skopeo, source, store_root, ":app:1", "--all")
    found = adopted(store_root)
    assert [(one.ref, str(one.platform), one.index_digest) for one in found] == [
        ("docker.io/library/app:1", "linux/amd64", BOTH.digest),
        ("docker.io/library/app:1", "linux/arm64", BOTH.digest),
    ]
    store = Store(store_root)
    assert collect_garbage(store).removed == ()
    tag_image(store, ARM64.digest, Reference.parse("arm:1"))
    remove_images(store, ["app:1"])
    assert [(one.ref, one.digest) for one in all_images(store)] == [("docker.io/library/arm:1", ARM64.digest)]
    assert stores.blobs(store_root) == everything(ARM64) | {BOTH.digest}


@pytest.mark.parametrize("options", [[], ["--annotate-ref"]], ids=["without names", "with names"])
def test_a_layout_that_crane_wrote_is_listed_found_tagged_and_removed(
    options: list[str], crane: Path, source: str, store_root: Path
) -> None:
    options = ["--format=oci", "--platform=linux/amd64", *options]
    run(crane, "pull", *options, source, store_root / "images").check_returncode()
    reference = source if "--annotate-ref" in options else ""
    (found,) = adopted(store_root)
    assert (found.ref, found.digest, str(found.platform)) == (reference, AMD64.digest, "linux/amd64")
    store = Store(store_root)
    tag_image(store, reference or AMD64.digest, Reference.parse("mine:1"))
    remove_images(store, [reference or "mine:1"])
    assert [one.digest for one in all_images(store)] == [AMD64.digest]
    assert collect_garbage(store).removed == ()


def test_an_index_that_crane_pulled_whole_is_listed_by_its_images(crane: Path, source: str, store_root: Path) -> None:
    run(crane, "pull", "--format=oci", "--annotate-ref", source, store_root / "images").check_returncode()
    assert [(one.ref, str(one.platform)) for one in adopted(store_root)] == [
        (source, "linux/amd64"),
        (source, "linux/arm64"),
    ]
    store = Store(store_root)
    assert {record.digest for record in ImageStore(store).lookup(BOTH.digest)} == {AMD64.digest, ARM64.digest}
    remove_images(store, [source])
    assert stores.blobs(store_root) == set()


def test_an_image_that_crane_pulled_twice_is_there_twice_and_removed_at_once(
    crane: Path, source: str, store_root: Path
) -> None:
    options = ("--format=oci", "--annotate-ref", "--platform=linux/amd64")
    for _ in range(2):
        run(crane, "pull", *options, source, store_root / "images").check_returncode()
    assert [one.ref for one in adopted(store_root)] == [source] * 2
    store = Store(store_root)
    remove_images(store, [source])
    assert (all_images(store), stores.blobs(store_root)) == ([], set())


def test_images_of_dockers_media_types_are_adopted(
    crane: Path, crane_registry: Registry, repository: str, store_root: Path
) -> None:
    source = push(crane_registry, repository, "1", DOCKER)
    run(crane, "pull", "--format=oci", source, store_root / "images").check_returncode()
    assert [str(one.platform) for one in adopted(store_root)] == ["linux/amd64", "linux/arm/v7"]
    assert collect_garbage(Store(store_root)).removed == ()


def test_what_is_put_beside_another_tools_images_leaves_them_readable(
    skopeo: str, source: str, store_root: Path, tmp_path: Path
) -> None:
    copy(skopeo, source, store_root, ":theirs:1", "--override-arch=amd64")
    store = Store(store_root)
    pulled(store, "ours:1", OTHER)
    pulled(store, "ours:1", ARM64)
    layout = f"oci:{store_root}/images"
    for number, name in enumerate(("theirs:1", "docker.io/library/ours:1")):
        run(skopeo, "copy", f"{layout}:{name}", f"dir:{tmp_path}/{number}").check_returncode()
    assert {path.name for path in (tmp_path / "0").iterdir()} > {BASE.digest[7:], TOP.digest[7:]}
    # And skopeo goes on writing there.
    copy(skopeo, source, store_root, ":theirs:2", "--override-arch=amd64")
    assert [(one.ref.rpartition("/")[2], one.digest) for one in all_images(store)] == [
        ("theirs:1", AMD64.digest),
        ("ours:1", OTHER.digest),
        ("ours:1", ARM64.digest),
        ("theirs:2", AMD64.digest),
    ]
    remove_images(store, ["theirs:1", "theirs:2"])
    assert stores.blobs(store_root) == everything(OTHER, ARM64)


def test_pulling_a_name_that_skopeo_wrote_replaces_it_and_is_not_ambiguous(
    skopeo: str, source: str, store_root: Path
) -> None:
    name = "docker.io/library/app:1"
    copy(skopeo, source, store_root, f":{name}", "--override-arch=amd64")
    store = Store(store_root)
    pulled(store, "app:1", OTHER)
    pulled(store, "app:1", ARM64)
    inspected = run(skopeo, "inspect", "--override-arch=amd64", f"oci:{store_root}/images:{name}")
    assert json.loads(inspected.stdout)["Digest"] == OTHER.digest, inspected.stderr
    assert [one.digest for one in all_images(store)] == [OTHER.digest, ARM64.digest]
