"""An HTTP proxy as companies have them: tunnels for HTTPS (RFC 9110, section 9.3.6), forwarding for plain HTTP.

Names of hosts are for the proxy alone to resolve, and it finds all of them on loopback: what reaches a registry under
such a name has come this way.
"""

from __future__ import annotations

import contextlib
import http.client
import selectors
import socket
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLL_SECONDS = 0.01
_CHUNK = 1 << 16


@dataclass
class ConnectProxy:
    """What a proxy was asked for.

    Attributes:
        url: Its own address, for ``HTTPS_PROXY``.
        tunnels: ``host:port`` of each tunnel, in order.
        forwarded: URL of each request that it passed on.
        authorizations: What such requests had to be let in with, for everybody on the way to read.
        refusal: The status with which it refuses all of them; 0: none.
    """

    url: str
    tunnels: list[str] = field(default_factory=list)
    forwarded: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    refusal: int = 0


@contextlib.contextmanager
def connect_proxy() -> Iterator[ConnectProxy]:
    """Run a proxy on loopback until the block ends."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="proxy")
        thread.start()
        try:
            yield server.proxy
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.proxy = ConnectProxy(f"http://127.0.0.1:{self.server_port}")
        self.ending = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_CONNECT(self) -> None:
        self.server.proxy.tunnels.append(self.path)
        if self.server.proxy.refusal:
            self.send_error(self.server.proxy.refusal)
            return
        port = int(self.path.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as there:
            self.send_response(HTTPStatus.OK, "Connection established")
            self.end_headers()
            self._pass_on(there)
        self.close_connection = True

    def _pass_on(self, there: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ, there)
            selector.register(there, selectors.EVENT_READ, self.connection)
            while not self.server.ending.is_set():
                for key, _ in selector.select(0.1):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    try:
                        chunk = source.recv(_CHUNK)
                        key.data.sendall(chunk)
                    except OSError:
                        return
                    if not chunk:
                        return

    def do_GET(self) -> None:
        self.server.proxy.forwarded.append(self.path)
        self.server.proxy.authorizations += self.headers.get_all("Authorization", [])
        address = urlsplit(self.path)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", address.port or 80)) as connection:
            headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
            connection.request(self.command, address.path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length", str(len(body))))
            self.end_headers()
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the same

    def log_message(self, *_args: object) -> None:
        """Say nothing: what was asked is recorded."""
