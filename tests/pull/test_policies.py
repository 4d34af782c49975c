"""When the network is asked: counted at a registry that records each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img import progress
from micropod_img.errors import IntegrityError, NotFoundError, UnsupportedError
from micropod_img.pull import pull as pulling
from micropod_img.pull import retry
from micropod_img.pull.options import PullOptions
from tests.support import stores
from tests.support.faults import on, too_many_requests
from tests.support.images import image, index
from tests.support.layers import layer
from tests.support.scripted import scripted_registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from micropod_img.progress import Event
    from micropod_img.pull.pull import PullRequest
    from micropod_img.service import ImageService
    from tests.support.scripted import ScriptedRegistry

BASE = layer({"etc/base": b"base\n"})
AMD64 = image([BASE])
assert AMD64.config is not None
CONFIG = AMD64.config
ARM64 = image([layer({"etc/arm": b"arm\n"})], platform="linux/arm64")
BOTH = index([AMD64, ARM64])
MOVED = index([image([BASE, layer({"etc/new": b"new\n"})]), ARM64])


@pytest.fixture
def ref(scripted: ScriptedRegistry, service: ImageService) -> str:
    """An image that was pulled, from a registry that has forgotten that."""
    ref = scripted.serve("some/image", "1", BOTH)
    service.pull_image(ref)
    scripted.forget_requests()
    return ref


@pytest.mark.parametrize("policy", ["missing", "never"])
def test_an_image_that_is_here_touches_no_network(
    service: ImageService, scripted: ScriptedRegistry, ref: str, policy: str
) -> None:
    assert service.pull_image(ref, policy=policy).digest == AMD64.digest  # type: ignore[arg-type]  # from a table
    assert scripted.requests == ()


def test_never_pulls_nothing(service: ImageService, scripted: ScriptedRegistry) -> None:
    ref = scripted.serve("some/image", "1", BOTH)

    with pytest.raises(NotFoundError, match="is not here"):
        service.pull_image(ref, policy="never")
    assert scripted.requests == ()


def test_newer_asks_for_the_digest_alone_while_the_tag_stands(
    service: ImageService, scripted: ScriptedRegistry, ref: str
) -> None:
    service.pull_image(ref, policy="newer")

    asked = [(one.method, one.path) for one in scripted.requests if one.path != "/v2/"]
    assert asked == [("HEAD", "/v2/some/image/manifests/1")]


def test_newer_pulls_when_the_tag_moved(service: ImageService, scripted: ScriptedRegistry, ref: str) -> None:
    scripted.serve("some/image", "1", MOVED)

    report = service.pull_images([ref], PullOptions(policy="newer"))

    assert [one.index_digest for one in report.images] == [MOVED.digest]
    assert report.reused_bytes == BASE.size


def test_newer_uses_what_is_here_when_the_registry_is_gone(service: ImageService) -> None:
    notices: list[Event] = []
    with scripted_registry() as registry:
        ref = registry.serve("some/image", "1", BOTH)
        service.pull_image(ref)

    assert service.pull_image(ref, policy="newer", progress=notices.append).digest == AMD64.digest
    assert any(isinstance(one, progress.Notice) and "what is here is used" in one.message for one in notices)


@pytest.mark.slow
def test_newer_uses_what_is_here_when_the_registry_allows_no_more_requests(
    service: ImageService, scripted: ScriptedRegistry, ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    scripted.faults = (on("/manifests/", too_many_requests()),)
    assert service.pull_image(ref, policy="newer").digest == AMD64.digest


def test_newer_counts_its_time_once(
    service: ImageService, scripted: ScriptedRegistry, ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[float] = []

    def recording(work: Callable[..., object]) -> Callable[..., object]:
        def work_for(store: object, program: object, wanted: PullRequest, **rest: object) -> object:
            began.append(wanted.limits.started)
            return work(store, program, wanted, **rest)

        return work_for

    for name in ("current_digest", "pull"):
        monkeypatch.setattr(pulling, name, recording(getattr(pulling, name)))
    scripted.serve("some/image", "1", MOVED)
    service.pull_images([ref], PullOptions(policy="newer", timeout=60))
    assert len(began) == 2
    assert began[0] == began[1]


def test_always_asks_and_fetches_nothing_that_is_here(
    service: ImageService, scripted: ScriptedRegistry, ref: str
) -> None:
    service.pull_image(ref, policy="always")

    assert scripted.count("/manifests/1") >= 1
    assert scripted.count("/blobs/") == 0


def test_an_image_for_another_platform_is_not_taken_for_the_right_one(
    service: ImageService, scripted: ScriptedRegistry
) -> None:
    ref = scripted.serve("some/image", "1", BOTH)
    service.pull_image(ref, platform="linux/arm64")

    with pytest.raises(NotFoundError):
        service.pull_image(ref, policy="never")
    assert service.pull_image(ref).digest == AMD64.digest
    assert {one.digest for one in service.list_images()} == {AMD64.digest, ARM64.digest}


def test_a_platform_that_was_named_is_meant_exactly(service: ImageService, scripted: ScriptedRegistry) -> None:
    ref = scripted.serve("some/image", "1", index([image([BASE], platform="linux/arm/v6")]))

    with pytest.raises(UnsupportedError, match="linux/arm/v6"):
        service.pull_image(ref, platform="linux/arm/v7")


@pytest.mark.parametrize("digest", [AMD64.digest, BOTH.digest], ids=["of the manifest", "of the index"])
def test_a_digest_finds_an_image_that_came_under_a_tag(
    service: ImageService, scripted: ScriptedRegistry, ref: str, digest: str
) -> None:
    by_digest = f"{ref.removesuffix(':1')}@{digest}"

    found = service.pull_image(by_digest)

    assert (found.ref, found.digest) == (by_digest, AMD64.digest)
    assert scripted.requests == ()
    assert {one.ref for one in service.list_images()} == {ref, by_digest}


def test_after_all_platforms_a_moved_tag_keeps_the_other_platforms(
    service: ImageService, scripted: ScriptedRegistry
) -> None:
    ref = scripted.serve("some/image", "1", BOTH)
    service.pull_image(ref, all_platforms=True)
    scripted.serve("some/image", "1", MOVED)

    moved = service.pull_image(ref, policy="always")

    assert moved.index_digest == MOVED.digest
    assert service.get_image(ref, platform="linux/arm64").digest == ARM64.digest


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _scramble(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


@pytest.mark.parametrize(
    ("digest", "damage"),
    [
        (AMD64.digest, _truncate),
        (AMD64.digest, _scramble),
        (AMD64.digest, lambda path: path.unlink()),
        (CONFIG.digest, _truncate),
        (CONFIG.digest, _scramble),
        (CONFIG.digest, lambda path: path.unlink()),
        (BASE.digest, _truncate),
        (BASE.digest, lambda path: path.write_bytes(b"")),
        (BASE.digest, lambda path: path.unlink()),
    ],
)
def test_what_is_damaged_is_noticed_and_fetched_again(
    service: ImageService, ref: str, store_root: Path, digest: str, damage: Callable[[Path], None]
) -> None:
    damage(stores.blob_path(store_root, digest))

    with pytest.raises(IntegrityError):
        service.pull_image(ref, policy="never")
    assert service.pull_image(ref).digest == AMD64.digest
    assert stores.problems(store_root) == []
