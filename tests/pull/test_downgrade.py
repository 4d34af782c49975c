"""A registry that leads from HTTPS to plain HTTP: crane follows with the credential, and is kept from it."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import AuthError
from micropod_img.pull.hosts import HostOptions
from micropod_img.pull.options import PullOptions
from micropod_img.pull.secret import Credential
from tests.support.connect_proxy import ConnectProxy, connect_proxy
from tests.support.faults import basic_auth, bearer_auth
from tests.support.processes import run
from tests.support.registries import Certificates, make_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from micropod_img.service import ImageService
    from tests.support.scripted import ScriptedRegistry

HOST = "registry.test"
USER, PASSWORD = "user", "correct-horse"
GIVEN = Credential.from_password(USER, PASSWORD)
ON_THE_WIRE = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), names=f"DNS:{HOST}")


@contextlib.contextmanager
def redirecting(certificates: Certificates, target: str) -> Iterator[str]:
    """Run a server with TLS that sends every request on to the same path at another address; yield host and port."""

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the same

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # of who asks for plain HTTP here
                super().handle()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{HOST}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    """Who reads all plain HTTP on its way, and finds the hosts."""
    with connect_proxy() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.delenv(name.lower(), raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield proxy


@pytest.fixture(params=["Basic", "Bearer"])
def downgrading(
    request: pytest.FixtureRequest, certificates: Certificates, scripted: ScriptedRegistry
) -> Iterator[str]:
    """A registry that sends who comes by HTTPS on to plain HTTP, where it, or a token server, asks for a password."""
    plain = f"http://{HOST}:{scripted.host.rpartition(':')[2]}"
    bearer = bearer_auth(plain, credentials=(USER, PASSWORD))
    scripted.faults = (basic_auth(USER, PASSWORD) if request.param == "Basic" else bearer,)
    with redirecting(certificates, plain) as host:
        yield host


def test_crane_alone_sends_the_password_for_everybody_to_read(
    crane: Path, certificates: Certificates, downgrading: str, proxy: ConnectProxy, tmp_path: Path
) -> None:
    auth = ON_THE_WIRE.removeprefix("Basic ")
    (tmp_path / "config.json").write_text(json.dumps({"auths": {downgrading: {"auth": auth}}}))
    environment = {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path), "SSL_CERT_FILE": str(certificates.ca)}
    run(crane, "manifest", f"{downgrading}/team/app", environment=environment)
    assert ON_THE_WIRE in proxy.authorizations


def pull(service: ImageService, host: str, ca: Path) -> None:
    (failure,) = service.pull_images([f"{host}/team/app"], PullOptions(auth=GIVEN, ca_file=ca)).failures
    raise failure.error


def tags(service: ImageService, host: str, ca: Path) -> None:
    service.registries.tags(f"{host}/team/app", options=HostOptions(auth=GIVEN, ca_file=ca))


def login(service: ImageService, host: str, ca: Path) -> None:
    service.registries.login(host, GIVEN, options=HostOptions(ca_file=ca))


@pytest.mark.parametrize("ask", [pull, tags, login])
def test_here_it_is_an_error_and_nothing_is_sent(
    ask: Callable[[ImageService, str, Path], None],
    service: ImageService,
    certificates: Certificates,
    downgrading: str,
    proxy: ConnectProxy,
) -> None:
    with pytest.raises(AuthError, match="leads from HTTPS to plain HTTP") as caught:
        ask(service, downgrading, certificates.ca)
    assert caught.value.code == "credentials-withheld"
    assert (proxy.forwarded, proxy.authorizations) == ([], [])
    assert f"https://{downgrading}/v2/" in str(caught.value.hint)
