"""Each kind of image, and each thing that is none, pulled from a real registry or from one that serves oddities."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from micropod_img.pull.options import PullOptions
from tests.support import stores
from tests.support.images import (
    OCI_EMPTY,
    Manifest,
    ambiguous,
    artifact,
    attestation,
    image,
    index,
    oversized,
    schema_1,
)
from tests.support.layers import Layer, layer
from tests.support.push import push

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.service import ImageService
    from tests.support.registries import Registry
    from tests.support.scripted import ScriptedRegistry

HELLO = {"etc/hello": b"hello\n", "srv/data": bytes(5000)}
ONE = layer(HELLO)
TWO = layer({"etc/two": b"two\n"})

KINDS = {
    "OCI, gzip": image([ONE]),
    "OCI, gzip of several members": image([layer(HELLO, compression="gzip-members")]),
    "OCI, eStargz": image([layer(HELLO, compression="estargz")]),
    "OCI, zstd": image([layer(HELLO, compression="zstd")]),
    "OCI, zstd:chunked": image([layer(HELLO, compression="zstd-chunked")]),
    "OCI, uncompressed": image([layer(HELLO, compression="none")]),
    "Docker schema 2": image([layer(HELLO, docker=True)], docker=True),
    "no layers": image([]),
    "the same layer twice": image([ONE, TWO, ONE]),
    "index": index([image([ONE]), image([TWO], platform="linux/arm64")]),
    "Docker manifest list": index(
        [image([layer(HELLO, docker=True)], docker=True), image([], docker=True, platform="linux/arm/v7")], docker=True
    ),
    "nested index": index([index([image([TWO], platform="linux/s390x")]), index([image([ONE])])]),
    "index with an attestation": index([image([ONE]), attestation(image([ONE]))]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_pulled_whole(service: ImageService, registry: Registry, repository: str, kind: str) -> None:
    top = KINDS[kind]
    ref = push(registry, repository, "1", top)

    pulled = service.pull_image(ref)

    expected = next(one for one in (*top.manifests, top) if one.platform == "linux/amd64")
    assert (pulled.ref, pulled.digest, pulled.media_type) == (ref, expected.digest, expected.media_type)
    assert pulled.index_digest == (top.digest if top is not expected else None)
    assert pulled.layers == tuple(one.digest for one in expected.layers)
    assert tuple(one.diff_id for one in pulled.layer_details) == tuple(one.diff_id for one in expected.layers)
    assert str(pulled.platform) == "linux/amd64"
    assert service.list_images() == [service.get_image(ref)]


@pytest.mark.parametrize("kind", ["index", "Docker manifest list", "nested index", "index with an attestation"])
def test_all_platforms_are_pulled_as_one_index(
    service: ImageService, registry: Registry, repository: str, store_root: Path, kind: str
) -> None:
    top = KINDS[kind]
    ref = push(registry, repository, "1", top)

    service.pull_image(ref, all_platforms=True)

    assert stores.listed(store_root) == [(ref, top.digest)]
    needed = {str(one.digest) for one in (top, *top.manifests, *top.blobs)}
    assert stores.blobs(store_root) == needed
    images = [one for one in top.manifests if one.platform not in {None, "unknown/unknown"}]
    assert {one.digest for one in service.list_images()} == {one.digest for one in images}

    removed = service.delete_image(ref)
    assert ref in removed.removed
    assert stores.blobs(store_root) == set()


@dataclass(frozen=True)
class Refusal:
    """A document that must not become an image: its status, code, and a word that the message must have."""

    top: Manifest
    status: int
    code: str
    word: str
    missing: tuple[Layer, ...] = ()


def _with_layer_size(top: Manifest, size: int) -> Manifest:
    document = json.loads(top.content)
    document["layers"][0]["size"] = size
    return replace(top, content=json.dumps(document).encode())


CHILD = image([ONE])
FOREIGN = layer(HELLO, docker=True, urls=["http://127.0.0.1:9/never-asked"])

REFUSALS = {
    "schema 1": Refusal(schema_1([ONE]), 8, "schema-1", "schema 1"),
    "an artifact": Refusal(artifact(), 8, "not-an-image", "artifact"),
    "an artifact with an empty config": Refusal(artifact(config_type=OCI_EMPTY), 8, "not-an-image", "artifact"),
    "layers and manifests": Refusal(ambiguous(CHILD, index([CHILD])), 12, "ambiguous-manifest", "both"),
    "a child that is larger": Refusal(index([CHILD], overrides={CHILD.digest: {"size": 1}}), 7, "digest-mismatch", "1"),
    "a manifest over 4 MiB": Refusal(oversized([ONE]), 12, "manifest-too-large", "4 MiB"),
    "fewer diff IDs": Refusal(image([ONE, TWO], diff_ids=[ONE.diff_id]), 7, "diff-id-count", "2 layers"),
    "more diff IDs": Refusal(image([ONE], diff_ids=[ONE.diff_id, TWO.diff_id]), 7, "diff-id-count", "1 layers"),
    "no such platform": Refusal(index([image([ONE], platform="linux/s390x")]), 8, "no-such-platform", "linux/s390x"),
    "another platform, no index": Refusal(image([ONE], platform="linux/arm64"), 8, "no-such-platform", "linux/arm64"),
    "only attestations": Refusal(index([attestation(CHILD)]), 8, "no-such-platform", "no platform"),
    "an unknown layer type": Refusal(
        image([replace(ONE, media_type="application/vnd.oci.image.layer.v1.tar+encrypted")]),
        8,
        "layer-unsupported",
        "encrypted",
    ),
    "a foreign layer that is elsewhere": Refusal(image([FOREIGN], docker=True), 8, "foreign-layer", "foreign"),
    "a layer of another size": Refusal(_with_layer_size(image([ONE]), ONE.size + 1), 7, "digest-mismatch", "digest"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_no_good_image_is_refused_and_leaves_nothing(
    service: ImageService, scripted: ScriptedRegistry, kind: str
) -> None:
    refusal = REFUSALS[kind]
    ref = scripted.serve("odd/image", "1", refusal.top)

    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref)

    error = caught.value
    assert (error.exit_status, error.code) == (refusal.status, refusal.code), error.detail
    assert refusal.word in error.message
    assert ref in error.message
    assert service.list_images() == []


def test_an_image_whose_configuration_names_a_version_of_linux_is_found_again(
    service: ImageService, scripted: ScriptedRegistry
) -> None:
    ref = scripted.serve("some/image", "1", image([ONE], config={"os.version": "6.1"}))
    pulled = service.pull_image(ref, platform="linux/amd64")
    assert service.get_image(ref, platform="linux/amd64") == pulled


def test_a_foreign_layer_that_the_registry_has_is_pulled(service: ImageService, scripted: ScriptedRegistry) -> None:
    top = image([FOREIGN], docker=True)
    ref = scripted.serve("odd/image", "1", top, foreign_layers=True)

    assert service.pull_image(ref).layers == (FOREIGN.digest,)


def test_a_layer_with_other_bytes_is_an_integrity_error(service: ImageService, scripted: ScriptedRegistry) -> None:
    top = image([ONE])
    ref = scripted.serve("odd/image", "1", top)
    scripted.serve_blob("odd/image", replace(ONE, content=ONE.content[:-1] + b"x"), digest=ONE.digest)

    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref)

    assert caught.value.exit_status == 7
    assert service.list_images() == []


def test_one_reference_that_fails_does_not_lose_the_others(
    service: ImageService, registry: Registry, repository: str
) -> None:
    good = push(registry, repository, "1", KINDS["index"])
    missing = registry.reference(repository, "2")

    report = service.pull_images([missing, good, "Bad/Name:1"], PullOptions())

    assert [one.ref for one in report.images] == [good]
    assert [(one.ref, one.error.exit_status) for one in report.failures] == [(missing, 3), ("Bad/Name:1", 2)]


def test_a_second_image_on_the_same_base_fetches_only_its_own_layers(
    service: ImageService, registry: Registry, repository: str
) -> None:
    first = push(registry, repository, "1", image([ONE]))
    second = push(registry, repository, "2", image([ONE, TWO]))
    service.pull_image(first)

    report = service.pull_images([second])

    assert report.reused_bytes == ONE.size
    assert report.downloaded_bytes < ONE.size + TWO.size + 1000
