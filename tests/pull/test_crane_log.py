from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from micropod_img.pull.crane_log import retry_after, without_traffic
from tests.support.faults import MANIFESTS, bearer_auth, on, redirect, too_many_requests
from tests.support.images import image
from tests.support.layers import layer
from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted import ScriptedRegistry

IMAGE = image([layer({"etc/motd": b"welcome\n"})])
DATE = "Tue, 24 Nov 2026 00:00:00 GMT"
NOW = datetime(2026, 11, 24, 0, 0, 10, tzinfo=UTC)


def refusal(*headers: str) -> str:
    answer = "\r\n".join(["HTTP/1.1 429 Too Many Requests", *headers, "", '{"errors":[]}'])
    return f"2026/11/24 00:00:00 <-- 429 https://x/v2/a/manifests/b (1ms)\n2026/11/24 00:00:00 {answer}\n\n"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["Retry-After: 30"], 30),
        (["retry-after:   7"], 7),
        (["Retry-After: 0"], 0),
        ([f"Date: {DATE}", "Retry-After: Tue, 24 Nov 2026 00:01:00 GMT"], 60),
        (["Retry-After: Tue, 24 Nov 2026 00:01:00 GMT"], 50),
        ([f"Date: {DATE}", "Retry-After: Mon, 23 Nov 2026 00:01:00 GMT"], 0),
        (["Retry-After: 999999999"], 10 * 24 * 3600),
        (["Retry-After: -3"], None),
        (["Retry-After: soon"], None),
        (["Retry-After: "], None),
        (["Content-Type: text/plain"], None),
    ],
)
def test_a_refusal_says_how_long_to_wait(headers: list[str], seconds: float | None) -> None:
    assert retry_after(refusal(*headers), now=NOW) == seconds


def test_the_last_refusal_counts_and_what_bodies_say_does_not() -> None:
    assert retry_after(refusal("Retry-After: 30") + refusal("Retry-After: 5")) == 5
    assert retry_after(refusal("Retry-After: 5", "", "Retry-After: 30")) == 5
    assert retry_after(refusal("Retry-After: 5").replace("HTTP/1.1 429", "HTTP/1.1 200")) is None
    assert retry_after("") is None


def test_a_real_crane_tells_it(scripted: ScriptedRegistry, crane: Path) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(MANIFESTS, too_many_requests("17")),)
    log = run(crane, "manifest", "--verbose", name).stderr
    assert retry_after(log) == 17
    plain = without_traffic(log)
    assert plain == "".join(
        line for line in log.splitlines(keepends=True) if "retrying GET" in line or line.startswith("Error: ")
    )
    assert plain.count("retrying") == 3


def test_what_crane_sends_and_gets_is_left_out(scripted: ScriptedRegistry, crane: Path, tmp_path: Path) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    elsewhere = redirect(f"{scripted.url}/signed?signature=secret-of-the-address")
    scripted.faults = (bearer_auth(scripted.url), on("/blobs/", elsewhere))
    log = run(crane, "pull", "--verbose", "--format=oci", name, tmp_path / "pulled").stderr
    assert "secret-of-the-address" in log
    assert "Authorization: <redacted>" in log
    assert "issued by the tests" not in log
    plain = without_traffic(log)
    assert "manifests/v1" not in plain
    assert plain.startswith("Error: ")


def test_what_was_not_verbose_stays_as_it_is() -> None:
    words = "2026/11/24 00:00:00 retrying GET https://x/: UNKNOWN: unknown\nError: GET https://x/: UNKNOWN: unknown\n"
    assert without_traffic(words) == words
    assert without_traffic("Error: no\n") == "Error: no\n"
