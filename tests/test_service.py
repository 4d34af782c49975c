"""The façade: what a runtime that calls it as a library may rely on."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import (
    ConflictError,
    IntegrityError,
    InvalidReference,
    MicropodError,
    NotFoundError,
    UsageError,
)
from micropod_img.progress import Failed, Finished
from micropod_img.pull.options import PullOptions
from micropod_img.reference import Reference
from micropod_img.service import BrokenImage, ImageService
from tests.support import stores
from tests.support.faults import MANIFESTS, on
from tests.support.images import image, index
from tests.support.layers import layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from micropod_img.progress import Event
    from tests.support.scripted import RecordedRequest, Response, ScriptedRegistry

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64")
BOTH = index([AMD64, ARM64])


@pytest.fixture
def service(store_root: Path, tmp_path: Path) -> Iterator[ImageService]:
    """A service on an empty store, which must keep all its promises when the test has ended."""
    (tmp_path / "registries.conf").touch()
    config = tmp_path / "config.toml"
    config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\njobs = 3\n')
    yield ImageService(store_root, config)
    assert stores.problems(store_root) == []


@pytest.fixture
def events() -> list[Event]:
    """Where progress goes."""
    return []


@pytest.fixture
def ref(scripted: ScriptedRegistry, service: ImageService) -> str:
    """An image that is here."""
    ref = scripted.serve("some/image", "v1", BOTH)
    service.pull_image(ref)
    return ref


def test_a_store_that_is_not_there_is_empty_and_is_not_made(service: ImageService, store_root: Path) -> None:
    assert service.list_images() == []
    with pytest.raises(NotFoundError):
        service.get_image("alpine")
    with pytest.raises(NotFoundError):
        service.pull_image("alpine", policy="never")
    assert list(store_root.iterdir()) == []


@pytest.mark.parametrize("call", ["pull", "get", "delete", "tag"])
def test_what_is_no_reference_is_said_to_be_none(call: str, service: ImageService) -> None:
    calls: dict[str, Callable[[], object]] = {
        "pull": lambda: service.pull_image("No/Reference"),
        "get": lambda: service.get_image("No/Reference"),
        "delete": lambda: service.delete_image("No/Reference"),
        "tag": lambda: service.tag_image("alpine", "No/Reference"),
    }
    with pytest.raises(InvalidReference):
        calls[call]()


def test_references_may_be_text_or_parsed(ref: str, service: ImageService) -> None:
    parsed = Reference.parse(ref)
    assert service.pull_image(parsed) == service.get_image(parsed) == service.get_image(ref)
    service.tag_image(parsed, Reference.parse("other:1"))
    assert service.delete_image(Reference.parse("other:1")).removed == ("docker.io/library/other:1",)


@pytest.mark.parametrize("text", [AMD64.digest, AMD64.digest[:15], AMD64.digest.removeprefix("sha256:")[:12]])
def test_an_image_is_found_by_its_digest_or_the_beginning_of_it(text: str, ref: str, service: ImageService) -> None:
    assert service.get_image(text) == service.get_image(ref)


def test_an_image_for_another_platform_is_said_to_be_here_for_that(ref: str, service: ImageService) -> None:
    with pytest.raises(NotFoundError, match="is here for linux/amd64, and not for linux/arm64") as caught:
        service.get_image(ref, platform="linux/arm64")
    assert caught.value.exit_status == 3


def test_the_one_platform_that_is_here_is_meant_where_none_is_named(
    scripted: ScriptedRegistry, service: ImageService
) -> None:
    ref = scripted.serve("some/image", "v1", ARM64)
    service.pull_image(ref, platform="linux/arm64")
    assert service.get_image(ref).digest == ARM64.digest


def test_images_of_all_platforms_are_listed_each(scripted: ScriptedRegistry, service: ImageService) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    assert service.pull_image(ref, all_platforms=True).digest == AMD64.digest
    assert {(one.ref, one.digest) for one in service.list_images()} == {(ref, AMD64.digest), (ref, ARM64.digest)}
    assert service.get_image(ref, platform="linux/arm64").digest == ARM64.digest


def test_an_image_that_is_damaged_is_told_and_hides_no_other(
    scripted: ScriptedRegistry, ref: str, service: ImageService, store_root: Path
) -> None:
    other = scripted.serve("other/image", "v1", image([TOP]))
    service.pull_image(other)
    stores.blob_path(store_root, BASE.digest).unlink()
    with pytest.raises(IntegrityError):
        service.list_images()
    broken: list[BrokenImage] = []
    assert [one.ref for one in service.list_images(broken.append)] == [other]
    assert [(one.ref, one.error.exit_status) for one in broken] == [(ref, 7)]
    service.pull_image(ref)


def test_deleting_frees_what_no_other_image_needs(
    scripted: ScriptedRegistry, ref: str, service: ImageService, store_root: Path
) -> None:
    other = scripted.serve("other/image", "v1", image([BASE]))
    service.pull_image(other)
    result = service.delete_image(ref)
    assert ref in result.removed
    assert result.freed_bytes >= TOP.size
    assert BASE.digest in stores.blobs(store_root)
    assert TOP.digest not in stores.blobs(store_root)
    assert [one.ref for one in service.list_images()] == [other]


def test_several_are_deleted_all_or_none(ref: str, service: ImageService) -> None:
    with pytest.raises(NotFoundError):
        service.delete_images([ref, "unknown"])
    assert [one.ref for one in service.list_images()] == [ref]
    assert ref in service.delete_images([ref, "unknown"], force=True).removed
    assert service.list_images() == []


def test_a_digest_with_two_names_is_deleted_by_force_only(ref: str, service: ImageService) -> None:
    service.tag_image(ref, "copy:1")
    with pytest.raises(ConflictError) as caught:
        service.delete_image(AMD64.digest)
    assert caught.value.exit_status == 9
    service.delete_image(AMD64.digest, force=True)
    assert service.list_images() == []


def test_garbage_is_what_no_image_needs(ref: str, service: ImageService, store_root: Path) -> None:
    stray = image([layer({"stray": b""})])
    stores.blob_path(store_root, stray.digest).write_bytes(stray.content)
    usage = service.disk_usage()
    assert usage.unreferenced_bytes == stray.size
    result = service.collect_garbage()
    assert (result.removed, result.freed_bytes) == ((stray.digest,), stray.size)
    assert service.disk_usage().unreferenced_bytes == 0
    assert [one.image.ref for one in service.disk_usage().images] == [ref]


def test_tools_tell_their_versions(service: ImageService) -> None:
    assert [(one.name, bool(one.version)) for one in service.tool_versions()] == [("crane", True), ("umoci", True)]


def test_the_platform_is_the_one_that_is_named_then_the_configurations(service: ImageService) -> None:
    assert str(service.wanted_platform("arm64")) == "linux/arm64"
    assert str(service.wanted_platform(None)) == "linux/amd64"
    with pytest.raises(UsageError):
        service.wanted_platform("a/b/c/d")


@pytest.mark.parametrize(
    "options",
    [
        PullOptions(policy="sometimes"),  # type: ignore[arg-type]  # from a caller without types
        PullOptions(all_platforms=True, platform="linux/arm64"),
        PullOptions(platform="no platform"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_done(
    options: PullOptions, service: ImageService, scripted: ScriptedRegistry
) -> None:
    with pytest.raises(UsageError):
        service.pull_images([scripted.reference("some/image", "v1")], options)
    assert scripted.requests == ()


# --- several at once


def test_nothing_to_pull_is_done_at_once(service: ImageService) -> None:
    report = service.pull_images([])
    assert (report.images, report.failures, report.downloaded_bytes, report.reused_bytes) == ((), (), 0, 0)


@pytest.mark.parametrize("jobs", [0, -1])
@pytest.mark.parametrize("number", [1, 2])
def test_less_than_one_at_a_time_is_refused(jobs: int, number: int, service: ImageService) -> None:
    with pytest.raises(UsageError):
        service.pull_images(["alpine"] * number, jobs=jobs)


def test_results_come_in_the_order_given_whichever_is_done_first(
    scripted: ScriptedRegistry, service: ImageService, events: list[Event]
) -> None:
    refs = [scripted.serve(f"image/{number}", "v1", image([BASE, TOP][: number % 3])) for number in range(4)]
    missing = [scripted.reference("image/none", f"v{number}") for number in range(2)]
    mixed = [missing[0], refs[2], refs[0], "Not/One", refs[3], missing[1], refs[1]]

    def first_comes_last(request: RecordedRequest, right: Response) -> Response:
        if request.path == f"/v2/image/2{MANIFESTS}v1":
            time.sleep(0.7)
        return right

    scripted.faults = (first_comes_last,)
    report = service.pull_images(mixed, progress=events.append)
    assert [one.ref for one in report.images] == [refs[2], refs[0], refs[3], refs[1]]
    assert [(one.ref, one.error.exit_status) for one in report.failures] == [
        (missing[0], 3),
        ("Not/One", 2),
        (missing[1], 3),
    ]
    finished = [event.ref for event in events if isinstance(event, Finished)]
    assert sorted(finished) == sorted(refs)
    assert finished[0] != refs[2]
    assert sorted(event.ref for event in events if isinstance(event, Failed)) == sorted([*missing, "Not/One"])


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "most"), [(1, 1), (2, 2), (None, 3)])
def test_no_more_are_fetched_at_once_than_was_said(
    jobs: int | None, most: int, scripted: ScriptedRegistry, service: ImageService
) -> None:
    refs = [scripted.serve(f"image/{number}", "v1", image([BASE])) for number in range(6)]
    lock = threading.Lock()
    under_way = 0
    peak = 0

    def counting(request: RecordedRequest, right: Response) -> Response:
        nonlocal under_way, peak
        if request.path.endswith(f"{MANIFESTS}v1"):
            with lock:
                under_way += 1
                peak = max(peak, under_way)
            time.sleep(0.4)
            with lock:
                under_way -= 1
        return right

    scripted.faults = (counting,)
    assert len(service.pull_images(refs, jobs=jobs).images) == 6
    assert peak == most


def test_the_sum_of_bytes_is_told(scripted: ScriptedRegistry, ref: str, service: ImageService) -> None:
    other = scripted.serve("other/image", "v1", image([BASE]))
    report = service.pull_images([ref, other])
    here, fetched = report.images
    assert report.reused_bytes == here.size + BASE.size
    assert report.downloaded_bytes == fetched.size - BASE.size - image([BASE]).size


def test_an_image_that_was_here_is_told_with_its_bytes(ref: str, service: ImageService, events: list[Event]) -> None:
    found = service.pull_image(ref, progress=events.append)
    assert events == [Finished(ref, AMD64.digest, fetched=False, downloaded_bytes=0, reused_bytes=found.size)]


def test_a_sink_is_called_by_one_thread_at_a_time(scripted: ScriptedRegistry, service: ImageService) -> None:
    refs = [scripted.serve(f"image/{number}", "v1", image([BASE])) for number in range(4)]
    busy = threading.Lock()
    together: list[Event] = []

    def sink(event: Event) -> None:
        if not busy.acquire(blocking=False):
            together.append(event)
            return
        time.sleep(0.01)
        busy.release()

    service.pull_images(refs, jobs=4, progress=sink)
    assert together == []


def test_a_sink_that_fails_ends_the_pull_with_its_own_error(scripted: ScriptedRegistry, service: ImageService) -> None:
    refs = [scripted.serve(f"image/{number}", "v1", image([BASE])) for number in range(2)]

    def broken(_event: Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        service.pull_images(refs, progress=broken)
    assert service.list_images() == []


def test_errors_carry_what_a_caller_needs(scripted: ScriptedRegistry, service: ImageService) -> None:
    ref = scripted.serve("some/image", "v1", AMD64)
    scripted.faults = (on(MANIFESTS, lambda right: right, times=1),)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref.replace("v1", "v2"))
    error = caught.value
    assert (error.code, error.exit_status, error.stage, error.endpoint, error.retryable) == (
        "manifest-unknown",
        3,
        "resolve",
        scripted.host,
        False,
    )
    assert error.hint is not None
    assert "MANIFEST_UNKNOWN" in (error.detail or "")
