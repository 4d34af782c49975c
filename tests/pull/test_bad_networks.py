"""Every fault of docs/registries.md: what crane alone makes of it, and what this does; always within a time bound.

The fixture ``service`` checks after each test that no bad blob is in the store and nothing is left of the work.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError, RateLimitedError
from micropod_img.progress import Retrying
from micropod_img.pull import retry
from micropod_img.pull.options import PullOptions
from micropod_img.pull.secret import Credential
from tests.support import stores
from tests.support.faults import MANIFESTS, basic_auth, cut, on, redirect, too_many_requests
from tests.support.network_faults import BIG, CASES, CONFIG_SIZE, IMAGE, OF_BIG, SMALL, Case, token
from tests.support.scripted import Response, ScriptedRegistry, scripted_registry

if TYPE_CHECKING:
    from micropod_img.progress import Event
    from micropod_img.service import ImageService

DOCUMENT = Path(__file__, "../../../docs/registries.md").resolve()
HANG_SECONDS = 6.0


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
        for line in DOCUMENT.read_text().partition("\nPushes are")[0].splitlines()
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
    assert str(caught.value.hint).startswith("try again in 60 min")


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
