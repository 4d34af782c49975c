from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.images import (
    LINUX_AMD64,
    OCI_EMPTY,
    OCI_INDEX,
    Manifest,
    ambiguous,
    artifact,
    attestation,
    image,
    index,
    oversized,
    schema_1,
)
from tests.support.layers import Blob, layer, random_layer
from tests.support.processes import run
from tests.support.push import PushRefusedError, push, push_blob
from tests.support.registries import (
    Registry,
    make_certificates,
    make_credentials,
    start_crane_registry,
    start_distribution,
)

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
DOCKER_BASE = layer({"etc/motd": b"base"}, docker=True)
NOWHERE = "http://127.0.0.1:1/layer"

IMAGE = image([BASE, TOP])
ARM64 = image([TOP], platform="linux/arm64/v8")
DOCKER_IMAGE = image([DOCKER_BASE], docker=True)
INDEX = index([IMAGE, ARM64])

DOCUMENTS = {
    "OCI image": IMAGE,
    "Docker image": DOCKER_IMAGE,
    "index": INDEX,
    "manifest list": index([DOCKER_IMAGE], docker=True),
    "nested index": index([INDEX, image([BASE], platform="linux/s390x")]),
    "index with an attestation": index([IMAGE, attestation(IMAGE)]),
    "index with a wrong size": index([IMAGE], overrides={IMAGE.digest: {"size": 1}}),
    "image with no layers": image(),
    "same layer twice": image([BASE, TOP, BASE]),
    "fewer diff IDs than layers": image([BASE, TOP], diff_ids=[BASE.diff_id]),
    "more diff IDs than layers": image([BASE], diff_ids=[BASE.diff_id, TOP.diff_id]),
    "zstd": image([layer({"a": b"1"}, compression="zstd"), layer({"b": b"1"}, compression="zstd-chunked")]),
    "estargz": image([layer({"a": b"1"}, compression="estargz"), layer({"b": b"1"}, compression="none")]),
    "Helm chart": artifact(),
    "artifact with an empty config": artifact(config_type=OCI_EMPTY),
}
REFUSED_BY_DISTRIBUTION = {
    "schema 1": schema_1([DOCKER_BASE]),
    "image and index": ambiguous(IMAGE, INDEX),
    "index and image": ambiguous(IMAGE, INDEX, media_type=OCI_INDEX),
    "over 4 MiB": oversized([BASE]),
}


def blobs_in(directory: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (directory / "blobs" / "sha256").iterdir()}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_what_was_pushed_comes_back_byte_for_byte(
    document: Manifest, registry: Registry, repository: str, crane: Path, tmp_path: Path
) -> None:
    name = push(registry, repository, "v1", document)
    assert run(crane, "manifest", name).stdout.encode() == document.content
    run(crane, "pull", "--format=oci", name, tmp_path / "pulled").check_returncode()
    assert blobs_in(tmp_path / "pulled") == {each.digest for each in (document, *document.manifests, *document.blobs)}


@pytest.mark.parametrize("document", REFUSED_BY_DISTRIBUTION.values(), ids=REFUSED_BY_DISTRIBUTION)
def test_odd_documents_can_be_pushed_to_cranes_registry_only(
    document: Manifest, crane_registry: Registry, distribution_registry: Registry, repository: str, crane: Path
) -> None:
    name = push(crane_registry, repository, "odd", document)
    assert run(crane, "manifest", name).stdout.encode() == document.content
    with pytest.raises(PushRefusedError, match=r"MANIFEST_INVALID|UNKNOWN"):
        push(distribution_registry, repository, "odd", document)


@pytest.mark.parametrize("docker", [False, True])
def test_foreign_layers_are_held_only_when_asked(
    docker: bool,  # noqa: FBT001 - a parameter of the table
    registry: Registry,
    repository: str,
    crane: Path,
    tmp_path: Path,
) -> None:
    base = layer({"base": b"1"}, docker=docker)
    document = image([base, layer({"foreign": repository.encode()}, docker=docker, urls=[NOWHERE])], docker=docker)
    name = push(registry, repository, "v1", document)
    refused = run(crane, "pull", "--format=oci", name, tmp_path / "without")
    assert refused.returncode == 1
    assert "foreign layer" in refused.stderr
    push(registry, repository, "v1", document, foreign_layers=True)
    run(crane, "pull", "--format=oci", name, tmp_path / "with").check_returncode()


def test_a_blob_can_be_pushed_alone(registry: Registry, repository: str, crane: Path) -> None:
    blob = Blob("application/octet-stream", b"nobody names me")
    push_blob(registry, repository, blob)
    assert run(crane, "blob", registry.reference(repository, blob.digest)).stdout == "nobody names me"


def test_a_layer_of_many_megabytes_arrives_whole(
    registry: Registry, repository: str, crane: Path, tmp_path: Path
) -> None:
    document = image([random_layer(8 << 20, seed=8)])
    name = push(registry, repository, "big", document)
    run(crane, "pull", "--format=oci", name, tmp_path / "pulled").check_returncode()
    assert blobs_in(tmp_path / "pulled") == {document.digest, *(blob.digest for blob in document.blobs)}


def test_the_real_image_has_three_layers_of_files_that_crane_can_read(
    real_image: Manifest, registry: Registry, repository: str, crane: Path, tmp_path: Path
) -> None:
    name = push(registry, repository, "real", real_image)
    run(crane, "export", name, tmp_path / "rootfs.tar").check_returncode()
    assert len(real_image.layers) == 3
    assert (tmp_path / "rootfs.tar").stat().st_size > 30 << 20


def test_a_registry_with_htpasswd_lets_in_whom_it_knows(repository: str, crane: Path, tmp_path: Path) -> None:
    with start_distribution(tmp_path, htpasswd=make_credentials(tmp_path)) as registry:
        assert registry.credentials is not None
        name = push(registry, repository, "v1", IMAGE)
        config = {"auths": {registry.host: dict(zip(("username", "password"), registry.credentials, strict=True))}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert "UNAUTHORIZED" in run(crane, "manifest", name).stderr
        known = run(crane, "manifest", name, environment={"DOCKER_CONFIG": str(tmp_path)})
        assert known.stdout.encode() == IMAGE.content


def test_a_registry_with_a_private_ca_is_trusted_by_those_who_know_the_ca(
    repository: str, crane: Path, tmp_path: Path
) -> None:
    with start_distribution(tmp_path, tls=make_certificates(tmp_path)) as registry:
        name = push(registry, repository, "v1", IMAGE)
        assert run(crane, "manifest", name).returncode == 1
        known = run(crane, "manifest", name, environment={"SSL_CERT_FILE": str(registry.ca)})
        assert known.stdout.encode() == IMAGE.content


def test_a_proxy_passes_through_what_the_other_registry_has(
    distribution_registry: Registry, repository: str, crane: Path, tmp_path: Path
) -> None:
    push(distribution_registry, repository, "v1", INDEX)
    with start_distribution(tmp_path, proxy=distribution_registry.url) as proxy:
        assert run(crane, "manifest", proxy.reference(repository, "v1")).stdout.encode() == INDEX.content
        with pytest.raises(PushRefusedError, match="UNSUPPORTED"):
            push(proxy, repository, "v2", IMAGE)


def test_a_registry_on_disk_keeps_its_blobs_there(repository: str, crane: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with start_crane_registry(crane, tmp_path, disk=tmp_path / "disk") as registry:
        push(registry, repository, "v1", IMAGE)
    names = {path.name for path in (tmp_path / "disk").rglob("*") if path.is_file()}
    assert {blob.digest.partition(":")[2] for blob in IMAGE.blobs} <= names


def test_a_registry_is_gone_after_its_block(repository: str, crane: Path, tmp_path: Path) -> None:
    with start_crane_registry(crane, tmp_path) as registry:
        name = push(registry, repository, "v1", IMAGE)
    assert "connection refused" in run(crane, "manifest", name).stderr


def test_the_tests_use_no_credentials_of_the_developer() -> None:
    assert list(Path(os.environ["DOCKER_CONFIG"]).iterdir()) == []


def test_the_platform_of_an_image_decides_which_child_crane_takes(
    registry: Registry, repository: str, crane: Path
) -> None:
    name = push(registry, repository, "v1", INDEX)
    assert run(crane, "digest", "--platform", LINUX_AMD64, name).stdout.strip() == IMAGE.digest
    assert run(crane, "digest", "--platform", "linux/arm64", name).stdout.strip() == ARM64.digest
