from __future__ import annotations

import pytest

from micropod_img.models import DeleteResult
from micropod_img.progress import Finished
from micropod_img.render.reports import collected_text, pulled_text, removed_text, steps_text, usage_text, version_text
from micropod_img.render.style import Style
from micropod_img.reports import ImageUsage, StoreUsage, ToolVersion
from tests.render.values import MIB, image

ALPINE = image("docker.io/library/alpine:3.20", "aa", size=3 * MIB)


def finished(*, fetched: bool, downloaded: int = 0, reused: int = 0) -> Finished:
    return Finished(ALPINE.ref, ALPINE.digest, fetched, downloaded, reused)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (finished(fetched=False), "here already"),
        (None, "here already"),
        (finished(fetched=True, downloaded=3 * MIB), "pulled, 3.0 MiB downloaded"),
        (
            finished(fetched=True, downloaded=MIB, reused=2 * MIB),
            "pulled, 1.0 MiB downloaded, 2.0 MiB reused",
        ),
        (finished(fetched=True, reused=3 * MIB), "pulled, all of it reused"),
    ],
)
def test_a_pull_is_one_line(end: Finished | None, text: str) -> None:
    assert pulled_text(ALPINE, end, Style()) == f"alpine:3.20: {text} (linux/amd64, aa0000000000)"


def test_what_was_removed_is_named() -> None:
    assert removed_text(DeleteResult(("docker.io/library/a:1", "sha256:0"), MIB)).splitlines() == [
        "removed docker.io/library/a:1",
        "removed sha256:0",
        "freed 1.0 MiB",
    ]


@pytest.mark.parametrize(
    ("removed", "text"),
    [
        ((), "nothing to remove: every blob belongs to an image"),
        (("sha256:1",), "removed 1 blob, freed 1.0 MiB"),
        (("sha256:1", "sha256:2"), "removed 2 blobs, freed 1.0 MiB"),
    ],
)
def test_garbage_is_counted(removed: tuple[str, ...], text: str) -> None:
    assert collected_text(DeleteResult(removed, MIB)) == text


def test_garbage_is_named_if_asked() -> None:
    assert collected_text(DeleteResult(("sha256:1",), MIB), verbose=True).splitlines()[0] == "removed sha256:1"


def test_the_largest_user_of_the_disk_is_first() -> None:
    small = ImageUsage(image("quay.io/team/app:1", "bb"), shared_bytes=MIB, own_bytes=MIB)
    large = ImageUsage(ALPINE, shared_bytes=MIB, own_bytes=2 * MIB)
    assert usage_text(StoreUsage((small, large), 4 * MIB, 0, 0), Style()).splitlines() == [
        "REFERENCE           PLATFORM         OWN   SHARED  DIGEST",
        "alpine:3.20         linux/amd64  2.0 MiB  1.0 MiB  aa0000000000",
        "quay.io/team/app:1  linux/amd64  1.0 MiB  1.0 MiB  bb0000000000",
        "",
        "Images  4.0 MiB, what they share counted once",
    ]


def test_what_is_of_no_image_is_told() -> None:
    assert usage_text(StoreUsage((), 0, MIB, 2 * MIB), Style()).splitlines()[2:] == [
        "Images        0 B, what they share counted once",
        "Unreferenced  1.0 MiB, which gc removes",
        "In progress   2.0 MiB",
    ]


def test_versions_have_paths_if_asked() -> None:
    tools = [ToolVersion("crane", "0.1", "/opt/crane")]
    assert version_text("1.0", tools) == "micropod-img 1.0\ncrane 0.1"
    assert version_text("1.0", tools, verbose=True) == "micropod-img 1.0\ncrane 0.1 (/opt/crane)"


def test_a_self_test_lists_its_steps_and_their_sum() -> None:
    steps = [("pull it", 1.5, None), ("mount it", 0.0, "nothing can be mounted here"), ("remove it", 0.25, None)]
    assert steps_text(steps, None, Style()).splitlines() == [
        "ok      pull it    1.50 s",
        "skipped mount it   nothing can be mounted here",
        "ok      remove it  0.25 s",
        "micropod-img works here: 2 steps in 1.75 s",
    ]


def test_a_self_test_that_failed_ends_with_the_step_that_did() -> None:
    assert steps_text([("pull it", 1.5, None)], "remove it", Style()).splitlines() == [
        "ok      pull it    1.50 s",
        "failed  remove it",
    ]
