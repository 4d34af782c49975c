"""Crane as a child: the words and the environment that it gets, and what becomes of its answers."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import media_types
from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.digest import parse_digest
from micropod_img.errors import IntegrityError, MicropodError, NotFoundError, ToolError, UnsafeError, UnsupportedError
from micropod_img.pull.access import Access
from micropod_img.pull.crane import Crane, TimeLimits
from micropod_img.pull.crane_errors import Request
from micropod_img.pull.endpoints import Endpoint
from micropod_img.run import OutputLimitError
from tests.support.faults import BLOBS, MANIFESTS, html, on, silent, stalled, with_header, without_header
from tests.support.images import image, index, oversized
from tests.support.layers import layer, random_layer
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_subprocess import FakeProcess

    from tests.support.faults import Change
    from tests.support.registries import Registry
    from tests.support.scripted import ScriptedRegistry

LAYER = layer({"etc/motd": b"hello"})
IMAGE = image([LAYER])
BOTH = index([IMAGE, image([LAYER], platform="linux/arm64")])


def crane_at(
    host: str,
    program: Path,
    *,
    repository: str = "some/image",
    suffix: str = ":v1",
    insecure: bool = False,
    environment: Mapping[str, str] | None = None,
    limits: TimeLimits | None = None,
) -> Crane:
    endpoint = Endpoint(host, repository, insecure, is_mirror=False, reference_text=f"{host}/{repository}{suffix}")
    access = Access(endpoint, {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"} if environment is None else environment)
    return Crane(program, access, limits or TimeLimits(timeout=None, stall_timeout=60))


def asking(host: str) -> Request:
    return Request(f"{host}/some/image:v1", host, "resolve")


@pytest.fixture
def served(scripted: ScriptedRegistry, crane: Path) -> Crane:
    """Crane, told of an index that a scripted registry serves."""
    scripted.serve("some/image", "v1", BOTH)
    return crane_at(scripted.host, crane)


def test_a_document_comes_byte_for_byte(registry: Registry, repository: str, crane: Path) -> None:
    push(registry, repository, "v1", BOTH)
    there = crane_at(registry.host, crane, repository=repository)
    request = asking(registry.host)
    assert there.manifest(None, request) == BOTH.content
    assert there.manifest(IMAGE.digest, request) == IMAGE.content
    assert there.digest(request) == BOTH.digest
    assert there.blob(LAYER.digest, request, limit=LAYER.size) == LAYER.content


def test_the_digest_alone_needs_no_body(served: Crane, scripted: ScriptedRegistry) -> None:
    assert served.digest(asking(scripted.host)) == BOTH.digest
    assert [(one.method, one.path) for one in scripted.requests if MANIFESTS in one.path] == [
        ("HEAD", "/v2/some/image/manifests/v1")
    ]


@pytest.mark.parametrize(
    "change",
    [
        without_header("docker-content-digest"),
        with_header("Docker-Content-Digest", "no digest"),
        without_header("content-type"),
    ],
)
def test_a_registry_that_does_not_tell_the_digest_is_asked_for_the_document(
    change: Change, served: Crane, scripted: ScriptedRegistry
) -> None:
    scripted.faults = (on(MANIFESTS, change, method="HEAD"),)
    assert served.digest(asking(scripted.host)) == BOTH.digest
    assert scripted.count(MANIFESTS) == 1


def test_an_answer_that_is_no_digest_is_refused(crane: Path, fp: FakeProcess) -> None:
    fp.register([fp.any()], stdout="latest\n")
    with pytest.raises(IntegrityError, match="names 'latest' as the digest of") as caught:
        crane_at("registry.example.com", crane).digest(asking("registry.example.com"))
    assert caught.value.endpoint == "registry.example.com"


def test_a_document_may_be_as_large_as_the_limit_and_no_larger(scripted: ScriptedRegistry, crane: Path) -> None:
    assert media_types.MANIFEST_LIMIT == 4 << 20
    there = crane_at(scripted.host, crane)
    largest = oversized([LAYER], size=4 << 20)
    scripted.serve("some/image", "v1", largest)
    assert there.manifest(None, asking(scripted.host)) == largest.content
    scripted.serve("some/image", "v1", oversized([LAYER]))
    with pytest.raises(UnsafeError) as caught:
        there.manifest(None, asking(scripted.host))
    assert (caught.value.code, caught.value.exit_status) == ("manifest-too-large", 12)


def test_a_blob_that_is_larger_than_it_may_be_is_not_read_to_its_end(scripted: ScriptedRegistry, crane: Path) -> None:
    big = image([random_layer(1 << 20)])
    scripted.serve("some/image", "v1", big)
    scripted.faults = (on(BLOBS, stalled(200_000)),)
    with pytest.raises(OutputLimitError):
        crane_at(scripted.host, crane).blob(big.layers[0].digest, asking(scripted.host), limit=1000)


@pytest.mark.parametrize(
    ("repository", "suffix"),
    [("a", ":v1"), ("some/image", f"@sha512:{'ab' * 64}"), ("some/image", f":v1@sha512:{'ab' * 64}")],
)
def test_what_crane_cannot_name_is_refused_before_it_is_started(repository: str, suffix: str) -> None:
    there = crane_at("h.example", Path("/nonexistent"), repository=repository, suffix=suffix)
    with pytest.raises(UnsupportedError) as caught:
        there.manifest(None, asking("h.example"))
    assert (caught.value.code, caught.value.exit_status) == ("reference-unsupported", 8)


def test_a_child_with_a_digest_that_crane_cannot_name_is_refused(served: Crane, scripted: ScriptedRegistry) -> None:
    with pytest.raises(UnsupportedError):
        served.manifest(parse_digest(f"sha512:{'ab' * 64}"), asking(scripted.host))


@pytest.mark.parametrize("make", ["missing", "not a program", "a directory"])
def test_a_crane_that_cannot_be_run_is_a_broken_tool(make: str, tmp_path: Path) -> None:
    program = tmp_path / "crane"
    if make == "not a program":
        program.write_text("not executable")
    elif make == "a directory":
        program.mkdir()
    there = crane_at("h.example", program)
    with pytest.raises(ToolError) as caught:
        there.manifest(None, asking("h.example"))
    assert (caught.value.code, caught.value.exit_status) == ("tool-broken", 11)
    with pytest.raises(ToolError):
        there.start_pull(IMAGE.digest, tmp_path / "layout", keep_open=())


def test_crane_gets_the_environment_that_was_made_for_it_and_nothing_else(
    crane: Path, fp: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_USER", "x")
    recorder = fp.register([fp.any()], stdout="x")
    made = {"HOME": "/somewhere", "DOCKER_CONFIG": "/somewhere"}
    crane_at("h.example", crane, environment=made).manifest(None, asking("h.example"))
    (call,) = recorder.calls
    assert call.kwargs is not None
    assert call.kwargs["env"] == made


@pytest.mark.parametrize("insecure", [False, True])
def test_plain_http_is_allowed_only_where_it_was_said(
    insecure: bool,  # noqa: FBT001 - a parameter of the table
    crane: Path,
    fp: FakeProcess,
) -> None:
    recorder = fp.register([fp.any()], stdout="x", occurrences=2)
    there = crane_at("h.example", crane, insecure=insecure)
    there.manifest(None, asking("h.example"))
    there.blob(LAYER.digest, asking("h.example"), limit=10)
    for call in recorder.calls:
        assert ("--insecure" in call.args) == insecure
        assert str(call.args[-1]).startswith("h.example/some/image")


def test_an_insecure_registry_is_reached_under_a_name_that_needs_https(scripted: ScriptedRegistry, crane: Path) -> None:
    scripted.serve("some/image", "v1", IMAGE)
    host = f"[::ffff:7f00:1]:{scripted.host.rpartition(':')[2]}"
    with pytest.raises(MicropodError) as caught:
        crane_at(host, crane).manifest(None, asking(host))
    assert caught.value.code == "plain-http"
    assert crane_at(host, crane, insecure=True).manifest(None, asking(host)) == IMAGE.content


def test_a_request_has_its_time(scripted: ScriptedRegistry, crane: Path) -> None:
    scripted.faults = (on(MANIFESTS, silent()),)
    for limits, said in (
        (TimeLimits(timeout=None, stall_timeout=0.3), "--stall-timeout"),
        (TimeLimits(timeout=0.3, stall_timeout=60), "--timeout"),
    ):
        started = time.monotonic()
        with pytest.raises(MicropodError, match=r"within 0\.3 s") as caught:
            crane_at(scripted.host, crane, limits=limits).manifest(None, asking(scripted.host))
        assert time.monotonic() - started < 3
        assert caught.value.code == "timeout"
        assert (caught.value.hint or "").endswith(said)


def test_a_request_can_be_called_off(served: Crane, scripted: ScriptedRegistry) -> None:
    scripted.faults = (on(MANIFESTS, silent()),)
    cancellation = Cancellation()
    timer = threading.Timer(0.2, cancellation.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        served.manifest(None, asking(scripted.host), cancellation=cancellation)
    assert time.monotonic() - started < 3
    timer.join()


def test_errors_name_the_registry_as_the_user_does(scripted: ScriptedRegistry, crane: Path) -> None:
    scripted.faults = (on(MANIFESTS, html(404, "nothing here")),)
    request = Request("registry.example.com/some/image:v1", "registry.example.com", "resolve")
    with pytest.raises(NotFoundError) as caught:
        crane_at(scripted.host, crane).manifest(None, request)
    assert scripted.host not in f"{caught.value.message} {caught.value.detail}"
    assert "registry.example.com" in (caught.value.detail or "")


def test_a_started_pull_fills_a_layout_and_keeps_what_it_was_given(
    served: Crane, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    scripted.faults = (on(LAYER.digest, stalled(10)),)
    reading, writing = os.pipe()
    with served.start_pull(IMAGE.digest, layout, keep_open=(writing,)) as child:
        os.close(writing)
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):  # the child has it open still
            os.read(reading, 1)
        scripted.released.set()
        while not child.wait(0.1):
            pass
        assert child.completed().status == 0
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert (layout / "blobs" / "sha256" / LAYER.digest.partition(":")[2]).read_bytes() == LAYER.content


@pytest.mark.parametrize(
    ("timeout", "stall_timeout", "begins_in", "request_seconds"),
    [(None, 60, 0, 60), (10, 3, 0, 3), (10, 60, 1000, 60), (10, 60, -1000, 0)],
)
def test_a_request_never_takes_longer_than_is_left(
    timeout: float | None, stall_timeout: float, begins_in: float, request_seconds: float
) -> None:
    # Made here and not in the table: their time would run from when the tests were collected.
    limits = TimeLimits(timeout, stall_timeout, started=time.monotonic() + begins_in)
    assert limits.for_request() == request_seconds
    assert limits.expired() == (request_seconds == 0)
