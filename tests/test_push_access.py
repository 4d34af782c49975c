"""Pushing to registries as they really are: who may, over which wires, and what goes wrong on the way."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import AuthError, MicropodError
from micropod_img.progress import Notice, Retrying
from micropod_img.pull import retry
from micropod_img.pull.hosts import HostOptions
from micropod_img.pull.secret import Credential
from micropod_img.service import ImageService
from tests.support import stores
from tests.support.faults import basic_auth, html, on, redirect, reset, silent, too_many_requests
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.scripted import ScriptedRegistry, oci_error, scripted_registry
from tests.support.token_server import TokenServer
from tests.support.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from micropod_img.progress import Event
    from micropod_img.reports import PushReport
    from tests.support.scripted import Fault

DOCUMENT = Path(__file__, "../../docs/registries.md").resolve()
USER, PASSWORD = "tester", "correct-horse"
GIVEN = Credential.from_password(USER, PASSWORD)
SMALL = layer({"etc/motd": b"welcome\n"})
BIG = random_layer(300_000)
IMAGE = image([SMALL, BIG])
BLOB_BYTES = sum(blob.size for blob in IMAGE.blobs)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration and, beside it, registries.conf."""

    def write(*lines: str, registries: str = "") -> Path:
        (tmp_path / "registries.conf").write_text(registries)
        config = tmp_path / "config.toml"
        config.write_text("\n".join(['registries-conf = "registries.conf"', 'platform = "linux/amd64"', *lines]))
        return config

    return write


@pytest.fixture
def here(store_root: Path, configure: Callable[..., Path]) -> Iterator[str]:
    """The reference of an image in the store."""
    with scripted_registry() as source:
        yield ImageService(store_root, configure()).pull_image(source.serve("some/image", "v1", IMAGE)).ref
    assert stores.problems(store_root) == []


@pytest.fixture
def uploads(scripted: ScriptedRegistry) -> Uploads:
    """What was pushed to the scripted registry."""
    uploads = Uploads(scripted)
    scripted.faults = (uploads,)
    return uploads


@pytest.fixture
def push(
    here: str, store_root: Path, configure: Callable[..., Path], scripted: ScriptedRegistry
) -> Callable[..., PushReport]:
    """Pushes the image to the scripted registry."""

    def do(
        *lines: str,
        name: str = scripted.reference("team/app", "v2"),
        registries: str = "",
        events: list[Event] | None = None,
        options: HostOptions | None = None,
    ) -> PushReport:
        service = ImageService(store_root, configure(*lines, registries=registries))
        told = [] if events is None else events
        platform = service.wanted_platform(None)
        return service.registries.push(here, name, platform=platform, options=options, progress=told.append)

    return do


def test_a_token_server_is_asked_for_the_right_to_push_to_this_repository_and_no_other(
    push: Callable[..., PushReport], scripted: ScriptedRegistry, uploads: Uploads
) -> None:
    server = TokenServer(scripted, users={USER: PASSWORD}, readable={"team/app"}, writable={"team/app"})
    scripted.faults = (uploads, server)
    report = push(options=HostOptions(auth=GIVEN, insecure=True))
    assert report.pushed_bytes == BLOB_BYTES + IMAGE.size
    assert {scope.rpartition(":")[0] for scope in server.asked} == {"repository:team/app"}
    assert any(set(scope.rpartition(":")[2].split(",")) == {"pull", "push"} for scope in server.asked)
    assert not scripted.count("mount=", method=None)


def test_who_may_read_and_not_push_is_told_so(
    push: Callable[..., PushReport], scripted: ScriptedRegistry, uploads: Uploads
) -> None:
    scripted.faults = (uploads, TokenServer(scripted, users={USER: PASSWORD}, readable={"team/app"}))
    with pytest.raises(AuthError) as caught:
        push(options=HostOptions(auth=GIVEN, insecure=True))
    assert "push" in caught.value.message
    assert uploads.taken == {}


def test_a_credential_does_not_go_over_plain_http_and_the_push_is_tried_without(
    push: Callable[..., PushReport], scripted: ScriptedRegistry, uploads: Uploads
) -> None:
    events: list[Event] = []
    push(options=HostOptions(auth=GIVEN), events=events)
    assert IMAGE.layers[0].digest in uploads.taken
    assert not [request for request in scripted.requests if "authorization" in request.headers]
    assert any("--insecure sends it" in event.message for event in events if isinstance(event, Notice))


def test_where_strangers_may_not_push_it_says_which_credential_was_kept_back(
    push: Callable[..., PushReport], scripted: ScriptedRegistry, uploads: Uploads
) -> None:
    scripted.faults = (uploads, basic_auth(USER, PASSWORD))
    with pytest.raises(AuthError, match=r"is not sent the credential \(given for this call\)") as caught:
        push(options=HostOptions(auth=GIVEN))
    assert "--insecure" in str(caught.value.hint)


@pytest.mark.parametrize("where", ["insecure-registries", "registries.conf"])
def test_a_registry_that_is_configured_as_insecure_is_sent_credentials_for_pushes_and_tags(
    where: str,
    push: Callable[..., PushReport],
    uploads: Uploads,
    store_root: Path,
    configure: Callable[..., Path],
) -> None:
    scripted = uploads.registry
    scripted.faults = (uploads, basic_auth(USER, PASSWORD))
    lines = [f'insecure-registries = ["{scripted.host}"]'] if where == "insecure-registries" else []
    registries = "" if lines else f'[[registry]]\nlocation = "{scripted.host}"\ninsecure = true\n'
    assert push(*lines, registries=registries, options=HostOptions(auth=GIVEN)).digest == IMAGE.digest
    service = ImageService(store_root, configure(*lines, registries=registries))
    with pytest.raises(MicropodError) as caught:
        service.registries.tags(f"{scripted.host}/team/app", options=HostOptions(auth=GIVEN))
    assert caught.value.code in {"not-found", "manifest-unknown"}, "it let us in; it keeps no list of tags"


def test_nothing_is_pushed_to_a_mirror(
    push: Callable[..., PushReport], scripted: ScriptedRegistry, uploads: Uploads
) -> None:
    with scripted_registry() as mirror:
        table = f'[[registry]]\nlocation = "{scripted.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}/cache"\n'
        push(registries=table)
        assert mirror.requests == ()
    assert set(uploads.taken) == {blob.digest for blob in IMAGE.blobs}


def test_nothing_is_pushed_to_a_registry_that_is_blocked(
    push: Callable[..., PushReport], scripted: ScriptedRegistry
) -> None:
    with pytest.raises(AuthError, match="blocks"):
        push(registries=f'[[registry]]\nlocation = "{scripted.host}"\nblocked = true\n')
    assert scripted.requests == ()


@dataclass(frozen=True)
class Case:
    """A fault of a registry that takes pushes, and what comes of it; as in `tests.pull.test_bad_networks`."""

    fault: Fault
    code: str | None = None
    status: int = 0
    within: float = 5.0
    timeout: float | None = None
    stall: float = 60
    attempts: int = retry.ATTEMPTS


UPLOADS = "/uploads/"
CASES = {
    "reset-once": Case(on(UPLOADS, reset(), method="PATCH", times=1)),
    "reset-always": Case(on(UPLOADS, reset(), method="PATCH"), "connection-lost", 5, 8, attempts=1),
    "manifest-reset-once": Case(on("/manifests/", reset(), method="PUT", times=1)),
    "stalled-once": Case(on("/manifests/", silent(), method="PUT", times=1), stall=1),
    "silent": Case(on(UPLOADS, silent(), method="POST"), "stalled", 5, stall=1),
    "silent-timeout": Case(on(UPLOADS, silent(), method="POST"), "timeout", 5, timeout=1),
    "503-once": Case(on(UPLOADS, html(503), method="POST", times=1)),
    "500-always": Case(on(UPLOADS, html(500), method="POST"), "server-error", 5, 8, attempts=1),
    "429-always": Case(on(UPLOADS, too_many_requests(), method="POST"), "rate-limited", 6, 8, attempts=1),
    "429-retry-after": Case(on(UPLOADS, too_many_requests("1"), method="POST", times=8), within=15),
    "401-without-challenge": Case(on("/v2/", oci_error(401, "UNAUTHORIZED")), "unauthorized", 4),
    "403": Case(on(UPLOADS, oci_error(403, "DENIED"), method="POST"), "denied", 4),
    "redirect-nowhere": Case(
        on(UPLOADS, redirect("http://127.0.0.1:1/upload"), method="POST"), "connection-refused", 5
    ),
    "redirect-loop": Case(on(UPLOADS, redirect("/v2/team/app/blobs/uploads/"), method="POST"), "redirect-loop", 5),
    "manifest-refused": Case(on("/manifests/", oci_error(400, "MANIFEST_INVALID"), method="PUT"), "push-refused", 8),
    "tag-immutable": Case(on("/manifests/", oci_error(412, "PRECONDITION"), method="PUT"), "tag-immutable", 9),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.slow if case.within > Case.within else ())
        for name, case in CASES.items()
    ],
)
def test_a_fault_ends_a_push_in_the_right_status_in_time(
    case: Case,
    push: Callable[..., PushReport],
    scripted: ScriptedRegistry,
    uploads: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(retry, "ATTEMPTS", case.attempts)
    scripted.faults = (uploads, case.fault)
    options = HostOptions(timeout=case.timeout, stall_timeout=case.stall)
    started = time.monotonic()
    if case.code is None:
        assert push(options=options).digest == IMAGE.digest
        assert set(uploads.taken) == {blob.digest for blob in IMAGE.blobs}
        assert scripted.count("/manifests/v2", method="PUT") >= 1
    else:
        with pytest.raises(MicropodError) as caught:
            push(options=options)
        assert (caught.value.code, caught.value.exit_status) == (case.code, case.status), caught.value.detail
        assert caught.value.stage == "push"
    assert time.monotonic() - started < case.within


def test_the_document_has_a_row_for_each_fault() -> None:
    table = DOCUMENT.read_text().partition("| row | fault of a registry that takes pushes")[2]
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (\d[^|]*) \|$", table, re.MULTILINE)
    assert dict(rows) == {
        name: "0" if case.code is None else f"{case.status} `{case.code}`" for name, case in CASES.items()
    }


@pytest.mark.slow
def test_what_arrived_whole_is_not_sent_again_and_all_that_was_sent_is_counted(
    push: Callable[..., PushReport], scripted: ScriptedRegistry, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.01)
    scripted.faults = (uploads, on("/manifests/", html(503), method="PUT", times=3))  # crane gives up after three
    events: list[Event] = []
    report = push(events=events)
    assert [event.attempt for event in events if isinstance(event, Retrying)] == [2]
    assert set(uploads.taken.values()) == {1}
    # The registry took the manifest although it said 503, and crane found it there.
    assert (report.pushed_bytes, report.present_bytes) == (BLOB_BYTES, IMAGE.size)
