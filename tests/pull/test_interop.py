"""The store beside the tools that it is built on: they read what was pulled, and what they wrote is pulled over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from micropod_img.service import ImageService
from micropod_img.tools import find_tool
from tests.support import stores
from tests.support.images import LINUX_AMD64, attestation, image, index
from tests.support.layers import layer
from tests.support.processes import require_program, run
from tests.support.push import push

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.registries import Registry
    from tests.support.scripted import ScriptedRegistry

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64")
BOTH = index([AMD64, ARM64, attestation(AMD64)])


@pytest.fixture
def skopeo() -> str:
    return require_program("skopeo", package="skopeo")


def digests(directory: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (directory / "blobs" / "sha256").iterdir()}


@dataclass(frozen=True)
class Pulled:
    """An image that was pulled, for one platform or for all."""

    ref: str
    whole: bool


@pytest.fixture(params=[False, True], ids=["one platform", "all platforms"])
def pulled(request: pytest.FixtureRequest, service: ImageService, crane_registry: Registry, repository: str) -> Pulled:
    ref = push(crane_registry, repository, "v1", BOTH)
    service.pull_image(ref, all_platforms=request.param)
    return Pulled(ref, whole=request.param)


def test_crane_pushes_the_store_as_it_stands(pulled: Pulled, crane: Path, store_root: Path) -> None:
    target = f"{pulled.ref}-pushed"
    pushed = [run(crane, "push", "--index", store_root / "images", target)]
    if not pulled.whole:
        pushed.append(run(crane, "push", store_root / "images", target))
    assert [one.returncode for one in pushed] == [0] * len(pushed), pushed
    assert run(crane, "digest", "--platform", LINUX_AMD64, target).stdout.strip() == AMD64.digest


def test_skopeo_copies_what_is_needed_and_no_more(
    pulled: Pulled, skopeo: str, store_root: Path, tmp_path: Path
) -> None:
    options = ["--all"] if pulled.whole else ["--override-arch=amd64"]
    source = f"oci:{store_root}/images:{pulled.ref}"
    copied = run(skopeo, "copy", *options, "--preserve-digests", source, f"oci:{tmp_path}/copy:it")
    assert copied.returncode == 0, copied.stderr
    needed = {blob.digest for one in (BOTH, *BOTH.manifests) for blob in (one, *one.blobs)}
    assert digests(tmp_path / "copy") == (needed if pulled.whole else {AMD64.digest, *(b.digest for b in AMD64.blobs)})


def test_umoci_lists_and_reads_it(
    crane_registry: Registry, repository: str, service: ImageService, store_root: Path
) -> None:
    umoci = find_tool("umoci").path
    refs = [push(crane_registry, repository, tag, image([BASE, layer({tag: b""})])) for tag in ("v1", "v2")]
    for ref in refs:
        service.pull_image(ref)
    layout = store_root / "images"
    assert sorted(run(umoci, "ls", "--layout", layout).stdout.split()) == sorted(refs)
    # DIR:TAG splits at the first colon, so the rest of it may have more.
    stat = run(umoci, "stat", "--json", "--image", f"{layout}:{refs[0]}")
    assert stat.returncode == 0, stat.stderr
    assert json.loads(stat.stdout)["history"][0]["layer"]["digest"] == BASE.digest


def copied_by_skopeo(skopeo: str, source: str, root: Path, name: str, *options: str) -> None:
    target = f"oci:{root}/images:{name}"
    done = run(skopeo, "copy", "--src-tls-verify=false", *options, f"docker://{source}", target)
    assert done.returncode == 0, done.stderr


def test_what_skopeo_copied_is_here_and_is_not_pulled(
    scripted: ScriptedRegistry, skopeo: str, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    copied_by_skopeo(skopeo, ref, store_root, ref, "--override-arch=amd64")
    scripted.forget_requests()
    assert service.pull_image(ref).digest == AMD64.digest
    assert scripted.requests == ()


@pytest.mark.parametrize("policy", ["newer", "always"])
def test_what_skopeo_copied_is_pulled_over_once_its_tag_moved(
    policy: str, scripted: ScriptedRegistry, skopeo: str, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", image([BASE]))
    copied_by_skopeo(skopeo, ref, store_root, ref)
    scripted.serve("some/image", "v1", BOTH)
    scripted.forget_requests()
    assert service.pull_image(ref, policy=policy).digest == AMD64.digest  # type: ignore[arg-type]  # from a table
    assert stores.listed(store_root) == [(ref, AMD64.digest)]
    assert stores.annotation(stores.entries(store_root)[0], stores.REF_NAME) == ref
    inspected = run(skopeo, "inspect", f"oci:{store_root}/images:{ref}")
    assert json.loads(inspected.stdout)["Layers"] == [BASE.digest, TOP.digest], inspected.stderr


def test_what_crane_pulled_is_not_fetched_again_under_a_name(
    scripted: ScriptedRegistry, crane: Path, store_root: Path, config_file: Path
) -> None:
    service = ImageService(store_root, config_file)
    ref = scripted.serve("some/image", "v1", BOTH)
    done = run(crane, "pull", "--format=oci", ref, store_root / "images")
    assert done.returncode == 0, done.stderr
    report = service.pull_images([ref])
    assert [one.digest for one in report.images] == [AMD64.digest]
    assert report.downloaded_bytes == 0
    # What crane listed has no name, and is kept beside ours.
    assert {one.ref for one in service.list_images()} == {"", ref}


def test_what_others_put_beside_our_images_stays_there(
    scripted: ScriptedRegistry, skopeo: str, service: ImageService, store_root: Path
) -> None:
    ours = scripted.serve("some/image", "v1", AMD64)
    service.pull_image(ours)
    theirs = scripted.serve("other/image", "v1", image([TOP]))
    copied_by_skopeo(skopeo, theirs, store_root, "theirs")
    assert service.pull_image(ours, policy="always").digest == AMD64.digest
    service.delete_image(ours)
    names = [stores.annotation(one, stores.REF_NAME) for one in stores.entries(store_root)]
    assert names == ["theirs"]
    assert run(skopeo, "inspect", f"oci:{store_root}/images:theirs").returncode == 0
