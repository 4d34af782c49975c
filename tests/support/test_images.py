from __future__ import annotations

import json

import pytest

from tests.support.images import (
    DOCKER_SCHEMA_1,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    ambiguous,
    artifact,
    attestation,
    image,
    index,
    oversized,
    schema_1,
)
from tests.support.layers import MIB, layer

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})


def test_an_image_describes_its_config_and_layers() -> None:
    made = image([BASE, TOP], platform="linux/arm/v7", config={"config": {"User": "nobody"}})
    document = json.loads(made.content)
    assert made.config is not None
    config = json.loads(made.config.content)
    assert document["config"] == {"mediaType": OCI_CONFIG, "digest": made.config.digest, "size": made.config.size}
    assert [each["digest"] for each in document["layers"]] == [BASE.digest, TOP.digest]
    assert config["rootfs"]["diff_ids"] == [BASE.diff_id, TOP.diff_id]
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm", "v7")
    assert config["config"] == {"User": "nobody"}


def test_the_blobs_of_an_image_stand_there_once_each() -> None:
    made = image([BASE, TOP, BASE])
    assert [blob.digest for blob in made.blobs if blob is not made.config] == [BASE.digest, TOP.digest]
    assert len(json.loads(made.content)["layers"]) == 3


def test_a_nested_index_has_everything_below_it_children_first() -> None:
    amd64, arm64 = image([BASE]), image([TOP], platform="linux/arm64/v8")
    inner = index([amd64, arm64])
    outer = index([inner, amd64])
    assert outer.manifests == (amd64, arm64, inner)
    assert {blob.digest for blob in outer.blobs} >= {BASE.digest, TOP.digest}


def test_an_index_says_the_platforms_of_images_and_none_of_indexes() -> None:
    arm = image([BASE], platform="linux/arm/v7")
    listed = json.loads(index([arm, index([arm])]).content)["manifests"]
    assert listed[0]["platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}
    assert listed[1]["mediaType"] == OCI_INDEX
    assert "platform" not in listed[1]


def test_an_index_can_lie_about_a_child() -> None:
    child = image([BASE])
    listed = json.loads(index([child], overrides={child.digest: {"size": 1}}).content)["manifests"]
    assert listed[0]["size"] == 1
    assert listed[0]["digest"] == child.digest


def test_an_attestation_is_for_no_platform_and_names_its_subject() -> None:
    subject = image([BASE])
    listed = json.loads(index([subject, attestation(subject)]).content)["manifests"]
    assert listed[1]["platform"] == {"os": "unknown", "architecture": "unknown"}
    assert listed[1]["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
    assert listed[1]["annotations"]["vnd.docker.reference.digest"] == subject.digest


@pytest.mark.parametrize("config_type", ["application/vnd.cncf.helm.config.v1+json", OCI_EMPTY])
def test_an_artifact_is_told_by_the_media_type_of_its_config(config_type: str) -> None:
    assert json.loads(artifact(config_type=config_type).content)["config"]["mediaType"] == config_type


def test_an_ambiguous_document_has_layers_and_manifests() -> None:
    subject = image([BASE])
    made = ambiguous(subject, index([subject]), media_type=OCI_INDEX)
    document = json.loads(made.content)
    assert document["layers"]
    assert document["manifests"]
    assert document["mediaType"] == made.media_type == OCI_INDEX


@pytest.mark.parametrize("size", [4 * MIB, 4 * MIB + 1])
def test_an_oversized_manifest_has_the_size_to_the_byte(size: int) -> None:
    assert oversized([BASE], size=size).size == size


def test_a_schema_1_document_names_its_layers_from_the_top_and_looks_signed() -> None:
    made = schema_1([BASE, TOP])
    document = json.loads(made.content)
    assert made.media_type == DOCKER_SCHEMA_1
    assert [each["blobSum"] for each in document["fsLayers"]] == [TOP.digest, BASE.digest]
    assert document["signatures"][0]["header"]["alg"] == "ES256"


def test_a_config_can_name_other_diff_ids_than_its_layers_have() -> None:
    made = image([BASE, TOP], diff_ids=[BASE.diff_id])
    assert made.config is not None
    assert json.loads(made.config.content)["rootfs"]["diff_ids"] == [BASE.diff_id]
