"""Every fault of docs/registries.md: what crane alone makes of it, and what this does; always within a time bound.

The fixture ``service`` checks after each test that no bad blob is in the store and nothing is left of the work.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest

from micropod_img.errors import MicropodError, RateLimitedError
from micropod_img.progress import Retrying
from micropod_img.pull import retry
from micropod_img.pull.job import PullOptions
from micropod_img.pull.secret import Credential
from tests.support import stores
from tests.support.faults import (
    BLOBS,
    MANIFESTS,
    altered,
    basic_auth,
    bearer_auth,
    cut,
    dripping,
    html,
    on,
    redirect,
    reset,
    silent,
    stalled,
    too_many_requests,
    truncated,
)
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.scripted import Response, ScriptedRegistry, oci_error, scripted_registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.progress import Event
    from micropod_img.service import ImageService
    from tests.support.scripted import Fault

Alone: TypeAlias = Literal["succeeds", "fails", "hangs"]

SMALL = layer({"etc/motd": b"welcome\n"})
BIG = random_layer(400_000)
IMAGE = image([SMALL, BIG])
CONFIG_SIZE = IMAGE.config.size if IMAGE.config else 0
OF_BIG = f"{BLOBS}{BIG.digest}"
OF_TAG = f"{MANIFESTS}v1"
DOCUMENT = Path(__file__, "../../../docs/registries.md").resolve()
HANG_SECONDS = 6.0


@dataclass(frozen=True)
class Case:
    """A fault, and what comes of it.

    Attributes:
        faults: Of a registry that holds the image.
        alone: What ``crane pull`` alone does.
        code: The error's code; None: the image is pulled.
        status: The exit status.
        within: Seconds.
        layer_requests: How often the big layer is asked for at most; 0 where it is not asked for.
        timeout: Seconds for all of it.
        stall: Seconds without a sign of life.
        attempts: How often it is tried; fewer than in earnest where crane takes four seconds for each.
    """

    faults: Callable[[ScriptedRegistry], tuple[Fault, ...]]
    alone: Alone
    code: str | None = None
    status: int = 0
    within: float = 5.0
    layer_requests: int = 3
    timeout: float | None = None
    stall: float = 60
    attempts: int = retry.ATTEMPTS


def always(*faults: Fault) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda _registry: faults


def once(
    pattern: str, outcome: Response | Callable[[Response], Response]
) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda _registry: (on(pattern, outcome, times=1),)


def each(
    pattern: str, outcome: Response | Callable[[Response], Response]
) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda _registry: (on(pattern, outcome),)


def times(pattern: str, outcome: Response, number: int) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda _registry: (on(pattern, outcome, times=number),)


def token(answer: Response) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda registry: (bearer_auth(registry.url), on("^/token", answer))


# The second request is crane's own: it asks for each layer before it looks whether it has it.
CASES = {
    "reset-once": Case(once(OF_BIG, reset(1000)), "fails"),
    "reset-always": Case(each(OF_BIG, reset(1000)), "fails", "connection-lost", 5),
    "cut-once": Case(once(OF_BIG, cut(1000)), "fails"),
    "cut-always": Case(each(OF_BIG, cut(1000)), "fails", "connection-lost", 5),
    "manifest-reset-once": Case(once(OF_TAG, reset(10)), "fails"),
    "manifest-cut-always": Case(each(OF_TAG, cut(10)), "fails", "connection-lost", 5, layer_requests=0),
    "stalled-once": Case(once(OF_BIG, stalled(1000)), "hangs", stall=1),
    "stalled-always": Case(each(OF_BIG, stalled(1000)), "hangs", "stalled", 5, stall=1),
    "silent": Case(each(OF_TAG, silent()), "hangs", "timeout", 5, layer_requests=0, stall=1),
    "slow-drip": Case(each(OF_BIG, dripping(160_000)), "succeeds", stall=1),
    "slow-drip-timeout": Case(each(OF_BIG, dripping(20_000)), "hangs", "timeout", 5, timeout=2),
    "429-once": Case(once(OF_TAG, too_many_requests()), "succeeds"),
    "429-always": Case(
        each(OF_TAG, too_many_requests()), "fails", "rate-limited", 6, within=8, layer_requests=0, attempts=1
    ),
    "429-retry-after": Case(times(OF_TAG, too_many_requests("1"), 5), "fails", within=15),
    "429-retry-after-long": Case(
        each(OF_TAG, too_many_requests("3600")), "fails", "rate-limited", 6, within=15, layer_requests=0
    ),
    "429-layer": Case(times(OF_BIG, too_many_requests("1"), 4), "fails", within=15, layer_requests=7),
    "503-once": Case(once(OF_TAG, html(503)), "succeeds"),
    "503-long": Case(times(OF_TAG, html(503), 4), "fails", within=15),
    "500-always": Case(each(OF_TAG, oci_error(500, "UNKNOWN")), "fails", "server-error", 5, 8, 0, attempts=1),
    "502-always": Case(each(OF_TAG, html(502)), "fails", "server-error", 5, 8, 0, attempts=1),
    "503-always": Case(each(OF_BIG, html(503)), "fails", "server-error", 5, 8, attempts=1),
    "504-always": Case(each(OF_TAG, html(504)), "fails", "server-error", 5, 8, 0, attempts=1),
    "wrong-bytes-once": Case(once(OF_BIG, altered()), "fails"),
    "wrong-bytes-twice": Case(each(OF_BIG, altered()), "fails", "digest-mismatch", 7, layer_requests=2),
    "shorter-body": Case(each(OF_BIG, truncated(1000)), "fails", "digest-mismatch", 7, layer_requests=2),
    "wrong-content-length": Case(
        each(OF_BIG, lambda right: replace(right, content_length=1000)), "fails", "digest-mismatch", 7, layer_requests=2
    ),
    "redirect-nowhere": Case(each(OF_BIG, redirect("http://127.0.0.1:1/blob")), "fails", "connection-refused", 5),
    "redirect-loop": Case(
        each(OF_BIG, redirect(f"/v2/some/image/blobs/{BIG.digest}")), "hangs", "timeout", 5, 8, 10**9, timeout=2
    ),
    "401-without-challenge": Case(
        each(OF_TAG, oci_error(401, "UNAUTHORIZED")), "fails", "unauthorized", 4, layer_requests=0
    ),
    "token-is-html": Case(token(html(200, "Log in")), "fails", "not-a-registry", 5, layer_requests=0),
    "token-is-missing": Case(token(Response(200, {}, b"{}")), "fails", "no-token", 5, layer_requests=0),
    "manifest-is-html": Case(each(OF_TAG, html(200, "Log in")), "fails", "malformed-document", 7, layer_requests=0),
    "403": Case(each(OF_TAG, oci_error(403, "DENIED")), "fails", "denied", 4, layer_requests=0),
    "404": Case(each(OF_TAG, oci_error(404, "MANIFEST_UNKNOWN")), "fails", "manifest-unknown", 3, layer_requests=0),
    "404-layer": Case(each(OF_BIG, oci_error(404, "BLOB_UNKNOWN")), "fails", "blob-unknown", 3, layer_requests=1),
}


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_fault_ends_in_the_right_status_in_time(
    case: Case, scripted: ScriptedRegistry, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = case.faults(scripted)
    monkeypatch.setattr(retry, "ATTEMPTS", case.attempts)
    started = time.monotonic()
    report = service.pull_images([name], PullOptions(timeout=case.timeout, stall_timeout=case.stall))
    assert time.monotonic() - started < case.within
    if case.code is None:
        assert [one.layers for one in report.images] == [(SMALL.digest, BIG.digest)]
    else:
        (failure,) = report.failures
        assert (failure.error.code, failure.error.exit_status) == (case.code, case.status), failure.error.detail
        assert stores.listed(service.root) == []
        assert BIG.digest not in stores.blobs(service.root)
    assert scripted.count(BIG.digest) <= case.layer_requests


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_crane_alone_does_what_the_document_says(
    case: Case, scripted: ScriptedRegistry, crane: Path, tmp_path: Path
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = case.faults(scripted)
    argv = [str(crane), "pull", "--format=oci", name, str(tmp_path / "pulled")]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=HANG_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        outcome = "hangs"
    else:
        outcome = "fails" if done.returncode else "succeeds"
    assert outcome == case.alone


def test_the_document_has_a_row_for_each_fault_and_each_row_has_its_test() -> None:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in DOCUMENT.read_text().splitlines()
        if re.match(r"\| `[\w-]+` ", line)
    ]
    said = {row[0].strip("`"): (row[2].partition(" ")[0].rstrip(",;:"), row[3]) for row in rows}
    assert said == {
        name: (case.alone, "0" if case.code is None else f"{case.status} `{case.code}`") for name, case in CASES.items()
    }


@pytest.mark.usefixtures("_impatient")
def test_layers_that_arrived_whole_are_not_fetched_again(scripted: ScriptedRegistry, service: ImageService) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(OF_BIG, cut(1000)),)
    assert service.pull_images([name]).failures
    assert SMALL.digest in stores.blobs(service.root)
    scripted.faults = ()
    report = service.pull_images([name])
    assert (report.reused_bytes, report.downloaded_bytes) == (SMALL.size, BIG.size + CONFIG_SIZE)


@pytest.mark.usefixtures("_impatient")
def test_a_retry_is_told_with_its_reason(
    scripted: ScriptedRegistry, service: ImageService, events: list[Event]
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(OF_BIG, cut(1000), times=1),)
    service.pull_image(name, progress=events.append)
    (told,) = [event for event in events if isinstance(event, Retrying)]
    assert told.attempt == 2
    assert "broke the connection" in told.reason


@pytest.mark.usefixtures("_impatient")
def test_an_error_says_when_the_registry_lets_one_try_again(scripted: ScriptedRegistry, service: ImageService) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(MANIFESTS, too_many_requests("3600")),)
    with pytest.raises(RateLimitedError) as caught:
        service.pull_image(name)
    assert caught.value.retry_after == 3600
    assert str(caught.value.hint).startswith("try again in 3600 s")


def test_a_token_answer_is_in_no_error(scripted: ScriptedRegistry, service: ImageService) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = token(Response(200, {}, b'{"odd_token": "a-secret-token"}'))(scripted)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(name)
    assert "a-secret-token" not in f"{caught.value} {caught.value.detail}"


def test_a_redirect_to_another_host_is_followed_without_the_credential(
    scripted: ScriptedRegistry, service: ImageService
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    with scripted_registry() as storage:
        storage.serve("some/image", "v1", IMAGE)
        elsewhere = redirect(f"{storage.url}/v2/some/image/blobs/{BIG.digest}?signature=of-the-storage")
        scripted.faults = (basic_auth("user", "password"), on(OF_BIG, elsewhere))
        service.pull_image(name, insecure=True, auth=Credential.from_password("user", "password"))
        assert storage.count(BIG.digest) >= 1
        assert all("authorization" not in request.headers for request in storage.requests)
