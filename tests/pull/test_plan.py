from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import IntegrityError, MicropodError, UnsafeError, UnsupportedError
from micropod_img.oci import parse_document
from micropod_img.pull.crane_errors import Request
from micropod_img.pull.plan import Plan, plan_image, plan_index
from micropod_img.pull.resolve import Document
from micropod_img.store.blobs import BlobStore
from micropod_img.store.layout import StoreLayout
from tests.support.images import OCI_CONFIG, OCI_EMPTY, Manifest, artifact, attestation, image, index
from tests.support.layers import Layer, layer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.layers import Blob

REQUEST = Request("registry.example.com/team/app:v1", "registry.example.com", "resolve")
BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
SHA512 = "sha512:" + "ab" * 64


def document(manifest: Manifest) -> Document:
    return Document(manifest.digest, manifest.content, parse_document(manifest.content, name="it"))


def planned(manifest: Manifest) -> Plan:
    if not manifest.children:
        return plan_image(document(manifest), REQUEST)
    return plan_index(document(manifest), [document(one) for one in (manifest, *manifest.manifests)], REQUEST)


def refusal(manifest: Manifest) -> MicropodError:
    with pytest.raises(MicropodError) as caught:
        planned(manifest)
    return caught.value


def described(blob: Blob, **changes: object) -> dict[str, object]:
    return {**blob.descriptor, **changes}


def test_an_image_needs_its_configuration_and_its_layers_bottom_to_top() -> None:
    manifest = image([BASE, TOP])
    plan = planned(manifest)
    assert manifest.config is not None
    assert [blob.digest for blob in plan.configs] == [manifest.config.digest]
    assert [blob.digest for blob in plan.layers] == [BASE.digest, TOP.digest]
    assert [one.digest for one in plan.documents] == [manifest.digest]
    assert plan.root.digest == manifest.digest


def test_a_layer_that_is_there_twice_is_needed_once() -> None:
    assert [blob.digest for blob in planned(image([BASE, TOP, BASE])).layers] == [BASE.digest, TOP.digest]


def test_an_image_may_have_no_layers() -> None:
    assert planned(image()).layers == ()


def test_an_index_needs_what_its_images_and_attestations_need_each_once() -> None:
    amd64, arm64 = image([BASE, TOP]), image([BASE], platform="linux/arm64")
    statement = attestation(amd64)
    plan = planned(index([index([amd64, statement]), arm64]))
    assert {blob.digest for blob in plan.layers} == {BASE.digest, TOP.digest, statement.layers[0].digest}
    assert len(plan.configs) == 3
    assert len(plan.documents) == 5
    assert len(plan.images) == 2  # an attestation's configuration has no diff IDs that mean anything


@pytest.mark.parametrize(
    "thing",
    [
        artifact(),
        artifact(config_type=OCI_EMPTY),
        artifact(config_type="application/vnd.oci.image.manifest.v1+json"),
        index([artifact()]),
        index([artifact(), artifact(config_type=OCI_EMPTY)]),
        attestation(image([BASE])),
    ],
)
def test_what_is_no_image_is_refused(thing: Manifest) -> None:
    error = refusal(thing)
    assert isinstance(error, UnsupportedError)
    assert error.exit_status == 8
    assert error.endpoint == REQUEST.endpoint


def test_an_artifact_is_called_what_it_says_it_is() -> None:
    assert "an artifact (application/vnd.cncf.helm.config.v1+json)" in refusal(artifact()).message
    assert "an artifact (application/vnd.example.thing)" in refusal(artifact(config_type=OCI_EMPTY)).message


@pytest.mark.parametrize("others", [[], [BASE]])
def test_a_layer_that_cannot_become_files_is_named(others: list[Layer]) -> None:
    encrypted = replace(TOP, media_type="application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
    error = refusal(image([*others, encrypted]))
    assert isinstance(error, UnsupportedError)
    assert error.code == "layer-unsupported"
    assert "tar+gzip+encrypted" in error.message


@pytest.mark.parametrize(
    "manifest",
    [
        image([BASE], fields={"config": {"mediaType": OCI_CONFIG, "digest": SHA512, "size": 2}}),
        image([BASE], fields={"layers": [described(BASE, digest=SHA512)]}),
    ],
)
def test_a_blob_with_a_digest_that_crane_does_not_know_is_refused(manifest: Manifest) -> None:
    error = refusal(manifest)
    assert (error.code, error.exit_status) == ("digest-unsupported", 8)


@pytest.mark.parametrize(
    "layers",
    [
        [described(BASE), described(BASE, size=BASE.size + 1)],
        [described(BASE, size=1), described(TOP), described(BASE)],
    ],
)
def test_one_blob_of_two_sizes_is_refused(layers: list[dict[str, object]]) -> None:
    error = refusal(image([BASE], fields={"layers": layers}))
    assert isinstance(error, IntegrityError)
    assert error.code == "size-mismatch"
    assert BASE.digest in error.message


def test_one_blob_of_two_sizes_in_two_images_of_an_index_is_refused() -> None:
    lying = image([BASE], platform="linux/arm64", fields={"layers": [described(BASE, size=1)]})
    assert refusal(index([image([BASE]), lying])).exit_status == 7


def test_a_configuration_that_is_a_layer_too_has_one_size() -> None:
    manifest = image([BASE])
    assert manifest.config is not None
    layers = [described(BASE, digest=manifest.config.digest, size=3)]
    assert refusal(image([BASE], fields={"layers": layers})).exit_status == 7


def test_a_configuration_that_is_too_large_is_refused_before_it_is_fetched() -> None:
    manifest = image([BASE])
    assert manifest.config is not None
    error = refusal(image([BASE], fields={"config": described(manifest.config, size=(8 << 20) + 1)}))
    assert isinstance(error, UnsafeError)
    assert error.code == "config-too-large"


def test_what_is_here_with_its_size_is_not_missing(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    layout.blobs.mkdir(parents=True)
    manifest = image([BASE, TOP])
    layout.blob(BASE.digest).write_bytes(BASE.content)
    layout.blob(TOP.digest).write_bytes(TOP.content[:-1])
    assert manifest.config is not None
    assert [one.digest for one in planned(manifest).missing(BlobStore(layout))] == [manifest.config.digest, TOP.digest]
