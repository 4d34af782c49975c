from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import AuthError, MicropodError, NotFoundError, UnavailableError, UsageError
from micropod_img.progress import PushProgress, PushStarted
from micropod_img.pull.hosts import HostOptions
from micropod_img.pull.options import PullOptions
from micropod_img.pull.secret import Credential
from micropod_img.service import ImageService
from tests.support import stores
from tests.support.faults import html, on, stalled, too_many_requests
from tests.support.images import attestation, image, index
from tests.support.layers import layer, random_layer
from tests.support.processes import run
from tests.support.push import push as push_raw
from tests.support.registries import make_credentials, start_distribution
from tests.support.scripted import oci_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from micropod_img.progress import Event
    from tests.support.registries import Registry
    from tests.support.scripted import Fault, ScriptedRegistry

SMALL = layer({"etc/motd": b"welcome\n"})
AMD64 = image([SMALL, random_layer(100_000)])
ARM64 = image([SMALL, random_layer(50_000, seed=1)], platform="linux/arm64")
INDEX = index([AMD64, ARM64, attestation(AMD64)])


@pytest.fixture
def service(store_root: Path, tmp_path: Path) -> Iterator[ImageService]:
    (tmp_path / "registries.conf").touch()
    config = tmp_path / "config.toml"
    config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    yield ImageService(store_root, config)
    assert stores.problems(store_root) == []


@pytest.fixture
def here(service: ImageService, scripted: ScriptedRegistry) -> str:
    """The reference of an image of an index, pulled for one platform."""
    return service.pull_image(scripted.serve("some/image", "v1", INDEX)).ref


def digest_at(crane: Path, name: str) -> str:
    return run(crane, "digest", name).stdout.strip()


def test_an_image_is_pushed_as_it_is(
    service: ImageService, here: str, registry: Registry, repository: str, crane: Path
) -> None:
    events: list[Event] = []
    destination = registry.reference(repository, "v1")
    platform = service.wanted_platform(None)
    report = service.registries.push(here, destination, platform=platform, progress=events.append)
    assert (report.ref, report.digest) == (destination, AMD64.digest)
    assert digest_at(crane, destination) == AMD64.digest
    blobs = sum(blob.size for blob in AMD64.blobs)
    assert report.pushed_bytes + report.present_bytes == blobs + AMD64.size
    assert isinstance(events[0], PushStarted)
    assert any(isinstance(event, PushProgress) for event in events)
    again = service.registries.push(here, destination, platform=platform)
    assert again.pushed_bytes == 0


def test_a_whole_index_is_pushed_with_all_that_is_below_it(
    service: ImageService, scripted: ScriptedRegistry, registry: Registry, repository: str, crane: Path
) -> None:
    service.pull_images([scripted.serve("some/image", "v1", INDEX)], PullOptions(all_platforms=True))
    destination = registry.reference(repository, "v1")
    report = service.registries.push(
        scripted.reference("some/image", "v1"), destination, platform=service.wanted_platform(None)
    )
    assert report.digest == INDEX.digest
    assert digest_at(crane, destination) == INDEX.digest
    for child in INDEX.manifests:
        assert digest_at(crane, registry.reference(repository, child.digest)) == child.digest


def test_one_image_of_an_index_is_pushed_if_its_platform_is_named(
    service: ImageService, scripted: ScriptedRegistry, registry: Registry, repository: str
) -> None:
    name = scripted.serve("some/image", "v1", INDEX)
    service.pull_images([name], PullOptions(all_platforms=True))
    platform = service.wanted_platform("linux/arm64")
    destination = registry.reference(repository, "arm")
    assert service.registries.push(name, destination, platform=platform, strict=True).digest == ARM64.digest


def test_what_is_missing_of_an_index_is_said(service: ImageService, here: str, registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="linux/arm64 is missing") as caught:
        service.registries.push(
            here, registry.reference("some/index"), platform=service.wanted_platform(None), all_platforms=True
        )
    assert caught.value.code == "index-not-whole"
    assert "pull --all-platforms" in str(caught.value.hint)


def test_a_platform_that_is_not_here_is_not_pushed(service: ImageService, here: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        service.registries.push(here, platform=service.wanted_platform("linux/riscv64"), strict=True)
    assert caught.value.code == "platform-not-here"


def test_an_image_is_pushed_to_where_its_name_says(
    service: ImageService, registry: Registry, repository: str, crane: Path
) -> None:
    name = push_raw(registry, repository, "v1", AMD64)
    service.pull_image(name)
    other = registry.reference(repository, "v2")
    service.tag_image(name, other)
    service.registries.push(other, platform=service.wanted_platform(None))
    assert digest_at(crane, other) == AMD64.digest


@pytest.mark.parametrize("suffix", [f":v1@{AMD64.digest}", f":v1@sha256:{'0' * 64}", f"@{AMD64.digest}"])
def test_an_image_can_be_pushed_to_its_own_digest_and_to_any_tag(
    suffix: str, service: ImageService, here: str, registry: Registry, repository: str
) -> None:
    destination = f"{registry.host}/{repository}{suffix}"
    report = service.registries.push(here, destination, platform=service.wanted_platform(None))
    assert report.digest == AMD64.digest


def test_an_image_cannot_be_pushed_to_another_digest(
    service: ImageService, here: str, scripted: ScriptedRegistry
) -> None:
    with pytest.raises(UsageError, match="not that of what would be pushed"):
        service.registries.push(
            here, scripted.reference("some/image", f"sha256:{'0' * 64}"), platform=service.wanted_platform(None)
        )


@pytest.mark.parametrize(
    "refusal",
    [
        (on("/uploads/", oci_error(403, "DENIED"), method="POST"), "denied", 4),
        (on("/uploads/", oci_error(401, "UNAUTHORIZED"), method="POST"), "unauthorized", 4),
        (on("/uploads/", html(413), method="POST"), "blob-too-large", 8),
        (on("/uploads/", html(405), method="POST"), "read-only-registry", 8),
        (on("/uploads/", oci_error(405, "UNSUPPORTED"), method="POST"), "unsupported", 8),
        (on("/uploads/", oci_error(400, "NAME_INVALID"), method="POST"), "name-unknown", 3),
    ],
)
def test_a_refusal_to_take_an_image_is_told_in_the_words_of_pushing(
    refusal: tuple[Fault, str, int], service: ImageService, here: str, scripted: ScriptedRegistry
) -> None:
    fault, code, status = refusal
    scripted.faults = (fault,)
    with pytest.raises(MicropodError) as caught:
        service.registries.push(here, scripted.reference("other/image"), platform=service.wanted_platform(None))
    assert (caught.value.code, caught.value.exit_status, caught.value.stage) == (code, status, "push")
    if code == "denied":
        assert "does not allow you to push to" in caught.value.message


def test_a_registry_that_takes_nothing_is_given_up(
    service: ImageService, here: str, scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micropod_img.pull.retry.ATTEMPTS", 1)
    scripted.faults = (on("/uploads/", stalled(), method="POST"),)
    options = HostOptions(stall_timeout=1)
    with pytest.raises(UnavailableError, match="took nothing for 1 s") as caught:
        service.registries.push(
            here, scripted.reference("other/image"), platform=service.wanted_platform(None), options=options
        )
    assert caught.value.code == "stalled"


def test_a_push_needs_credentials_that_may_push(service: ImageService, here: str, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    credentials = make_credentials(tmp_path)
    platform = service.wanted_platform(None)
    with start_distribution(tmp_path / "registry", htpasswd=credentials) as registry:
        destination = registry.reference("team/app", "v1")
        with pytest.raises(AuthError):
            service.registries.push(here, destination, platform=platform)
        given = Credential.from_password(credentials.user, credentials.password)
        report = service.registries.push(
            here, destination, platform=platform, options=HostOptions(insecure=True, auth=given)
        )
        assert report.digest == AMD64.digest
        assert report.pushed_bytes == sum(blob.size for blob in AMD64.blobs) + AMD64.size
        assert report.present_bytes == 0


def test_a_rate_limit_of_pushes_is_told(
    service: ImageService, here: str, scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micropod_img.pull.retry.ATTEMPTS", 1)
    scripted.faults = (on("/uploads/", too_many_requests("60"), method="POST"),)
    with pytest.raises(MicropodError) as caught:
        service.registries.push(here, scripted.reference("other/image"), platform=service.wanted_platform(None))
    assert caught.value.exit_status == 6
