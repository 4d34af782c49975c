"""Errors as real registries and a real network make the real crane say them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from tests.support.faults import (
    BLOBS,
    MANIFESTS,
    altered,
    cut,
    html,
    on,
    redirect,
    silent,
    too_many_requests,
    truncated,
)
from tests.support.images import image
from tests.support.layers import layer
from tests.support.scripted import Response, oci_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.service import ImageService
    from tests.support.registries import Registry
    from tests.support.scripted import Fault, ScriptedRegistry

LAYER = layer({"etc/motd": b"hello" * 1000})
IMAGE = image([LAYER])


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (on(MANIFESTS, oci_error(401, "UNAUTHORIZED", "who are you")), "unauthorized", 4),
        (on(MANIFESTS, html(401, "Unauthorized")), "unauthorized", 4),
        (on("", oci_error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="x"'})), "unauthorized", 4),
        (on("", oci_error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Bearer realm="/"'})), "token-server", 4),
        (on(MANIFESTS, html(403, "Forbidden")), "denied", 4),
        (on(MANIFESTS, oci_error(403, "DENIED", "not for you")), "denied", 4),
        (on(BLOBS, oci_error(403, "DENIED", "not for you")), "denied", 4),
        (on(MANIFESTS, html(404, "Not here")), "not-found", 3),
        (on(MANIFESTS, Response(404)), "not-found", 3),
        (on("/v2/$", html(404, "An ordinary site")), "not-found", 3),
        (on(MANIFESTS, oci_error(404, "NAME_UNKNOWN")), "name-unknown", 3),
        (on(MANIFESTS, oci_error(404, "MANIFEST_UNKNOWN")), "manifest-unknown", 3),
        (on(LAYER.digest, oci_error(404, "BLOB_UNKNOWN")), "blob-unknown", 3),
        (on(MANIFESTS, oci_error(405, "UNSUPPORTED")), "unsupported", 8),
        (on(MANIFESTS, cut(at=20)), "connection-lost", 5),
        (on(LAYER.digest, cut(at=20)), "connection-lost", 5),
        (on(MANIFESTS, truncated(at=20)), "malformed-document", 7),
        (on(LAYER.digest, truncated(at=20)), "digest-mismatch", 7),
        (on(LAYER.digest, altered()), "digest-mismatch", 7),
        (on(BLOBS, altered()), "digest-mismatch", 7),
        (on(BLOBS, redirect("http://nonexistent.invalid/blob")), "unknown-host", 5),
    ],
)
def test_registries_make_crane_say_it(
    fault: Fault, code: str, status: int, scripted: ScriptedRegistry, service: ImageService
) -> None:
    ref = scripted.serve("team/app", "v1", IMAGE)
    scripted.faults = (fault,)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref)
    assert (caught.value.code, caught.value.exit_status) == (code, status)
    assert caught.value.endpoint == scripted.host
    assert service.list_images() == []


@pytest.mark.slow
@pytest.mark.usefixtures("_once")
@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (on(MANIFESTS, too_many_requests("60")), "rate-limited", 6),
        (on(MANIFESTS, html(429, "Slow down")), "rate-limited", 6),
        (on(MANIFESTS, html(500, "Internal")), "server-error", 5),
        (on(MANIFESTS, oci_error(503, "UNAVAILABLE")), "server-error", 5),
        (on("/v2/$", html(502)), "server-error", 5),
    ],
)
def test_registries_make_crane_say_it_after_it_tried_again(
    fault: Fault, code: str, status: int, scripted: ScriptedRegistry, service: ImageService
) -> None:
    ref = scripted.serve("team/app", "v1", IMAGE)
    scripted.faults = (fault,)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref)
    assert (caught.value.code, caught.value.exit_status, caught.value.retryable) == (code, status, True)


@pytest.mark.parametrize("tag", ["v1", "v2"])
def test_a_real_registry_tells_an_unknown_repository_or_tag(
    tag: str, registry: Registry, repository: str, service: ImageService
) -> None:
    with pytest.raises(MicropodError) as caught:
        service.pull_image(registry.reference(repository, tag))
    assert caught.value.code in {"name-unknown", "manifest-unknown"}
    assert caught.value.exit_status == 3


@pytest.mark.parametrize(
    ("ref", "code"),
    [
        ("127.0.0.1:1/team/app:v1", "connection-refused"),
        ("[::1]:1/team/app:v1", "connection-refused"),
        ("nonexistent.invalid/team/app:v1", "unknown-host"),
    ],
)
def test_the_way_there_makes_crane_say_it(ref: str, code: str, service: ImageService) -> None:
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref)
    assert (caught.value.code, caught.value.exit_status, caught.value.retryable) == (code, 5, True)


def only_https(host: str) -> str:
    """Return another name of a server on loopback, for which crane does not try plain HTTP as well."""
    return f"[::ffff:7f00:1]:{host.rpartition(':')[2]}"


def test_plain_http_on_the_port_of_https_is_told(scripted: ScriptedRegistry, service: ImageService) -> None:
    with pytest.raises(MicropodError) as caught:
        service.pull_image(f"{only_https(scripted.host)}/team/app:v1")
    assert (caught.value.code, caught.value.exit_status) == ("plain-http", 5)
    assert "--insecure" in (caught.value.hint or "")


@contextlib.contextmanager
def resetting_server() -> Iterator[str]:
    """Reset every connection once something was said on it; yields host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(1)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.slow
@pytest.mark.usefixtures("_once")
def test_a_connection_that_is_reset_is_told(service: ImageService) -> None:
    with resetting_server() as host, pytest.raises(MicropodError) as caught:
        service.pull_image(f"{host}/team/app:v1")
    assert (caught.value.code, caught.value.exit_status, caught.value.retryable) == ("connection-lost", 5, True)


@pytest.mark.parametrize("fault", [on(MANIFESTS, silent()), on("/v2/$", silent())])
def test_a_registry_that_is_silent_is_told_in_time(
    fault: Fault, scripted: ScriptedRegistry, service: ImageService
) -> None:
    ref = scripted.serve("team/app", "v1", IMAGE)
    scripted.faults = (fault,)
    with pytest.raises(MicropodError, match=r"did not answer within 0\.5 s") as caught:
        service.pull_image(ref, stall_timeout=0.5, timeout=100)
    assert (caught.value.code, caught.value.exit_status, caught.value.retryable) == ("timeout", 5, True)


def test_a_redirect_loop_ends(scripted: ScriptedRegistry, service: ImageService) -> None:
    ref = scripted.serve("team/app", "v1", IMAGE)
    scripted.faults = (on(MANIFESTS, redirect("/v2/team/app/manifests/v1")),)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref, timeout=0.5)
    assert (caught.value.code, caught.value.exit_status) == ("timeout", 5)
