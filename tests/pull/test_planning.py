"""A plan asks what a pull would ask, says where from and with whose credential, and leaves everything as it was."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING

import pytest

from micropod_img.pull.options import PullOptions
from micropod_img.service import ImageService
from tests.support.credential_helper import make_broken_helper, seconds_without_answer
from tests.support.faults import MANIFESTS, basic_auth, on
from tests.support.images import image, index
from tests.support.layers import random_layer
from tests.support.scripted import ScriptedRegistry, oci_error, scripted_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE = image([random_layer(10_000), random_layer(20_000, seed=1)])
INDEX = index([IMAGE, image([random_layer(30_000, seed=2)], platform="linux/arm64")])
NAME = "registry.invalid/team/app:v1"


def everything_below(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of change of all that is in a directory, itself included."""
    found = {str(root): root.lstat()} | {str(path): path.lstat() for path in root.rglob("*")}
    return {name: (status.st_ino, status.st_size, status.st_mtime_ns) for name, status in found.items()}


@pytest.fixture
def mirror() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as registry:
        registry.serve("cache/app", "v1", INDEX)
        yield registry


@pytest.fixture
def mirrored(store_root: Path, tmp_path: Path, mirror: ScriptedRegistry, scripted: ScriptedRegistry) -> ImageService:
    """A service that asks a mirror, then the registry; both are insecure, and for the mirror there is a password."""
    scripted.serve("team/app", "v1", INDEX)
    (tmp_path / "registries.conf").write_text(
        f"""
        [[registry]]
        prefix = "registry.invalid/team"
        location = "{scripted.host}/team"
        [[registry.mirror]]
        location = "{mirror.host}/cache"
        insecure = true
        """
    )
    auth = base64.b64encode(b"user:correct-horse").decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {f"{mirror.host}/cache": {"auth": auth}}}))
    config = tmp_path / "config.toml"
    config.write_text('registries-conf = "registries.conf"\nauth-file = "auth.json"\nplatform = "linux/amd64"\n')
    mirror.faults = (basic_auth("user", "correct-horse"),)
    return ImageService(store_root, config)


def test_the_store_stays_as_it_is_and_no_layer_is_fetched(
    mirrored: ImageService, mirror: ScriptedRegistry, store_root: Path
) -> None:
    before = everything_below(store_root)
    plan = mirrored.plan_pull(NAME)
    assert everything_below(store_root) == before
    assert not any(mirror.count(layer.digest) for layer in IMAGE.layers)
    assert (plan.digest, plan.download_bytes) == (IMAGE.digest, sum(blob.size for blob in IMAGE.blobs))
    assert plan.needed_bytes >= plan.download_bytes
    status = os.statvfs(store_root)
    # Others use the disk meanwhile.
    assert plan.free_bytes == pytest.approx(status.f_frsize * status.f_bfree, rel=0.1)


def test_it_says_which_places_are_asked_with_whose_credential(
    mirrored: ImageService, mirror: ScriptedRegistry, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    first, second = mirrored.plan_pull(NAME).endpoints
    source = f"{tmp_path / 'auth.json'} (auths: {mirror.host}/cache)"
    assert (first.host, first.reference) == (mirror.host, f"{mirror.host}/cache/app:v1")
    assert (first.is_mirror, first.insecure, first.credential_source, first.answer) == (True, True, source, "has it")
    assert (second.host, second.is_mirror, second.credential_source, second.answer) == (
        scripted.host,
        False,
        None,
        None,
    )
    assert scripted.requests == ()


def test_it_says_why_a_mirror_is_passed_over(
    mirrored: ImageService, mirror: ScriptedRegistry, scripted: ScriptedRegistry
) -> None:
    mirror.faults = (on(MANIFESTS, oci_error(404, "MANIFEST_UNKNOWN")),)
    first, second = mirrored.plan_pull(NAME).endpoints
    assert f"{mirror.host} has no" in str(first.answer)
    assert (second.host, second.answer) == (scripted.host, "has it")


def test_a_place_that_a_pull_would_never_come_to_does_not_spoil_the_plan(
    mirrored: ImageService, scripted: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    certificates = tmp_path / ".config/containers/certs.d" / scripted.host
    certificates.mkdir(parents=True)
    for name in ("client.cert", "client.key"):
        (certificates / name).touch()
    plan = mirrored.plan_pull(NAME)
    assert plan.endpoints[0].answer == "has it"
    assert "client certificate" in str(plan.endpoints[1].answer)


def test_a_helper_that_does_not_answer_has_no_more_time_than_the_plan(
    mirrored: ImageService, scripted: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored.pull_image(NAME)
    helper = make_broken_helper(tmp_path / "bin", "sleep 60")
    monkeypatch.setenv("PATH", helper.in_path()["PATH"])
    (tmp_path / "auth.json").write_text(json.dumps({"credHelpers": {scripted.host: helper.name}}))
    plan = mirrored.plan_pull(NAME, PullOptions(timeout=0.5))
    assert not plan.fetch
    assert seconds_without_answer(str(plan.endpoints[1].answer)) <= 0.5


def test_all_platforms_are_planned_too(mirrored: ImageService) -> None:
    plan = mirrored.plan_pull(NAME, PullOptions(all_platforms=True))
    assert plan.digest == INDEX.digest
    assert plan.platform is None
    assert len(plan.layers) == 3


def test_without_a_store_none_is_made(mirrored: ImageService, store_root: Path) -> None:
    store_root.rmdir()
    assert mirrored.plan_pull(NAME).free_bytes > 0
    assert not store_root.exists()
