from __future__ import annotations

import http.client
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

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
    silent,
    stalled,
    too_many_requests,
    truncated,
    with_header,
    without_header,
)
from tests.support.images import LINUX_AMD64, OCI_MANIFEST, ambiguous, image, index, schema_1
from tests.support.layers import Blob, layer, random_layer
from tests.support.processes import run
from tests.support.scripted import RecordedRequest, Response, ScriptedRegistry, oci_error, scripted_registry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted import Fault

LAYER = layer({"etc/motd": b"welcome\n"})
IMAGE = image([LAYER])
INDEX = index([IMAGE, image([LAYER], platform="linux/arm64/v8")])
MANIFEST_PATH = "/v2/some/image/manifests/v1"
BLOB_PATH = f"/v2/some/image/blobs/{LAYER.digest}"


@pytest.fixture
def name(scripted: ScriptedRegistry) -> str:
    return scripted.serve("some/image", "v1", IMAGE)


@pytest.fixture
def connection(scripted: ScriptedRegistry, name: str) -> http.client.HTTPConnection:
    assert name.startswith(scripted.host)
    return http.client.HTTPConnection(scripted.host, timeout=0.5)


def get(
    connection: http.client.HTTPConnection, path: str, method: str = "GET"
) -> tuple[http.client.HTTPMessage, bytes]:
    try:
        connection.request(method, path)
        with connection.getresponse() as response:
            response.headers["status"] = str(response.status)
            return response.headers, response.read()
    finally:
        connection.close()


def test_crane_pulls_an_image_and_each_request_is_counted(
    scripted: ScriptedRegistry, name: str, crane: Path, tmp_path: Path
) -> None:
    run(crane, "pull", "--format=oci", name, tmp_path / "pulled").check_returncode()
    assert scripted.count(MANIFESTS) == 1
    assert scripted.count(LAYER.digest) == 1
    assert scripted.count(method="POST") == 0
    assert scripted.count(method=None) == len(scripted.requests)
    scripted.forget_requests()
    assert scripted.requests == ()


def test_an_index_brings_its_children(scripted: ScriptedRegistry, crane: Path, tmp_path: Path) -> None:
    name = scripted.serve("some/index", "v1", INDEX)
    run(crane, "pull", "--platform", LINUX_AMD64, "--format=oci", name, tmp_path / "pulled").check_returncode()
    assert scripted.count(f"{MANIFESTS}{IMAGE.digest}") == 1


@pytest.mark.parametrize("document", [schema_1([LAYER]), ambiguous(IMAGE, INDEX)], ids=["schema 1", "ambiguous"])
def test_any_document_is_served_byte_for_byte(document: Blob, scripted: ScriptedRegistry, crane: Path) -> None:
    scripted.serve_manifest("odd", "v1", document)
    assert run(crane, "manifest", scripted.reference("odd", "v1")).stdout.encode() == document.content


def test_a_document_can_be_served_under_a_digest_that_is_not_its_own(scripted: ScriptedRegistry, crane: Path) -> None:
    scripted.serve_manifest("odd", INDEX.digest, IMAGE)
    refused = run(crane, "pull", "--format=oci", scripted.reference("odd", INDEX.digest), "/nowhere")
    assert "does not match requested digest" in refused.stderr


def test_a_blob_can_be_served_under_a_digest_that_is_not_its_own(
    scripted: ScriptedRegistry, name: str, crane: Path, tmp_path: Path
) -> None:
    scripted.serve_blob("some/image", Blob("", b"x" * LAYER.size), digest=LAYER.digest)
    refused = run(crane, "pull", "--format=oci", name, tmp_path / "pulled")
    assert "error verifying sha256 checksum" in refused.stderr


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (on(MANIFESTS, oci_error(401, "UNAUTHORIZED", "who are you")), "UNAUTHORIZED: who are you"),
        (on(MANIFESTS, oci_error(403, "DENIED", "not for you")), "DENIED: not for you"),
        (on(MANIFESTS, oci_error(404, "NAME_UNKNOWN")), "NAME_UNKNOWN: name unknown"),
        (on(MANIFESTS, html(404, "Not here")), "404 Not Found: <html>"),
        (on(BLOBS, oci_error(404, "BLOB_UNKNOWN")), "BLOB_UNKNOWN"),
        (on(LAYER.digest, cut(at=20)), "unexpected EOF"),
        (on(LAYER.digest, truncated(at=20)), "Content-Length header 20 does not match expected size"),
        (on(LAYER.digest, altered()), "error verifying sha256 checksum"),
    ],
)
def test_crane_sees_each_fault(
    fault: Fault, words: str, scripted: ScriptedRegistry, crane: Path, tmp_path: Path
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (fault,)
    refused = run(crane, "pull", "--format=oci", name, tmp_path / "pulled")
    assert refused.returncode == 1
    assert words in refused.stderr


@pytest.mark.parametrize("answer", [oci_error(503, "UNAVAILABLE"), oci_error(500, "UNKNOWN"), too_many_requests("1")])
def test_a_fault_can_pass_and_crane_tries_again(
    answer: Response, scripted: ScriptedRegistry, name: str, crane: Path
) -> None:
    scripted.faults = (on(MANIFESTS, answer, times=1),)
    assert run(crane, "manifest", name).stdout.encode() == IMAGE.content
    assert scripted.count(MANIFESTS) == 2


def test_crane_follows_a_redirect_to_another_registry(scripted: ScriptedRegistry, name: str, crane: Path) -> None:
    with scripted_registry() as other:
        other.serve("some/image", "v1", IMAGE)
        scripted.faults = (on(MANIFESTS, redirect(other.url + MANIFEST_PATH)),)
        assert run(crane, "manifest", name).stdout.encode() == IMAGE.content
        assert other.count(MANIFESTS) == 1


def test_a_redirect_to_itself_is_a_loop_that_crane_never_leaves(
    scripted: ScriptedRegistry, name: str, crane: Path
) -> None:
    scripted.faults = (on(MANIFESTS, redirect(MANIFEST_PATH)),)
    with pytest.raises(subprocess.TimeoutExpired):
        run(crane, "manifest", name, timeout=0.5)
    assert scripted.count(MANIFESTS) > 10


@pytest.mark.parametrize("at", [0, 1, 20, LAYER.size])
def test_a_stall_lasts_until_the_release(
    at: int, scripted: ScriptedRegistry, connection: http.client.HTTPConnection
) -> None:
    scripted.faults = (on(BLOBS, stalled(at)),)
    connection.request("GET", BLOB_PATH)
    with connection.getresponse() as response:
        content = response.read(at)
        if at < LAYER.size:
            with pytest.raises(TimeoutError):
                response.fp.read1(1)
    connection.close()
    assert content == LAYER.content[:at]
    scripted.released.set()
    assert get(connection, BLOB_PATH)[1] == LAYER.content


def test_a_silent_registry_says_nothing_until_the_release(
    scripted: ScriptedRegistry, connection: http.client.HTTPConnection
) -> None:
    scripted.faults = (on(MANIFESTS, silent()),)
    with pytest.raises(TimeoutError):
        get(connection, MANIFEST_PATH)
    timer = threading.Timer(0.1, scripted.released.set)
    timer.start()
    assert get(connection, MANIFEST_PATH)[1] == IMAGE.content
    timer.join()


def test_a_body_drips_at_its_rate(scripted: ScriptedRegistry, connection: http.client.HTTPConnection) -> None:
    scripted.faults = (on(BLOBS, dripping(LAYER.size * 4)),)
    started = time.monotonic()
    assert get(connection, BLOB_PATH)[1] == LAYER.content
    assert 0.2 <= time.monotonic() - started < 2


def test_a_stalled_registry_ends_with_its_block_at_once() -> None:
    with scripted_registry() as registry:
        registry.serve("big", "v1", image([random_layer(1 << 20)]))
        registry.faults = (on(MANIFESTS, stalled()),)
        connection = http.client.HTTPConnection(registry.host)
        connection.request("GET", "/v2/big/manifests/v1")
        response = connection.getresponse()
        started = time.monotonic()
    assert time.monotonic() - started < 1
    response.close()
    connection.close()


def test_headers_can_be_taken_away_and_added(
    scripted: ScriptedRegistry, connection: http.client.HTTPConnection
) -> None:
    scripted.faults = (on(MANIFESTS, without_header("content-type")), on("", with_header("X-Proxy", "yes")))
    headers, body = get(connection, MANIFEST_PATH)
    assert headers["Content-Type"] is None
    assert headers["X-Proxy"] == "yes"
    assert body == IMAGE.content


def test_head_tells_the_size_and_sends_no_body(connection: http.client.HTTPConnection) -> None:
    headers, body = get(connection, MANIFEST_PATH, "HEAD")
    assert headers["Content-Length"] == str(IMAGE.size)
    assert headers["Content-Type"] == OCI_MANIFEST
    assert headers["Docker-Content-Digest"] == IMAGE.digest
    assert body == b""


def test_a_fault_can_be_for_one_method_only(scripted: ScriptedRegistry, connection: http.client.HTTPConnection) -> None:
    scripted.faults = (on(MANIFESTS, too_many_requests("120"), method="HEAD"),)
    refused, _ = get(connection, MANIFEST_PATH, "HEAD")
    assert (refused["status"], refused["Retry-After"]) == ("429", "120")
    assert get(connection, MANIFEST_PATH)[0]["status"] == "200"


@pytest.mark.parametrize("scheme", ["basic", "bearer", "bearer for everyone"])
def test_crane_is_let_in_with_credentials(
    scheme: str, scripted: ScriptedRegistry, name: str, crane: Path, tmp_path: Path
) -> None:
    scripted.faults = {
        "basic": (basic_auth("tester", "secret"),),
        "bearer": (bearer_auth(scripted.url, credentials=("tester", "secret")),),
        "bearer for everyone": (bearer_auth(scripted.url),),
    }[scheme]
    anonymous = run(crane, "manifest", name)
    assert (anonymous.returncode == 0) == (scheme == "bearer for everyone")
    auth = f'{{"auths": {{"{scripted.host}": {{"username": "tester", "password": "secret"}}}}}}'
    (tmp_path / "config.json").write_text(auth)
    known = run(crane, "manifest", name, environment={"DOCKER_CONFIG": str(tmp_path)})
    assert known.stdout.encode() == IMAGE.content


def test_an_error_in_a_fault_is_not_lost() -> None:
    def broken(_request: RecordedRequest, _right: Response) -> Response:
        raise ZeroDivisionError

    def ask() -> None:
        with scripted_registry() as registry:
            registry.faults = (broken,)
            with pytest.raises(ConnectionError):
                get(http.client.HTTPConnection(registry.host), "/v2/")

    with pytest.raises(ZeroDivisionError):
        ask()
