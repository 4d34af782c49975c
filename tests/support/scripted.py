"""A registry that serves what it is given, byte for byte, and misbehaves as it is told; it counts what it is asked."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.images import Manifest
    from tests.support.layers import Blob

_POLL_SECONDS = 0.01
_SLICES_PER_SECOND = 20
_CHUNK = 1 << 16
_BEFORE_RESET_SECONDS = 0.05


@dataclass(frozen=True)
class RecordedRequest:
    """What a client asked for; header names are in lower case, ``path`` holds the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Response:
    """An answer, to the byte.

    Attributes:
        status: HTTP status.
        headers: All of them but Content-Length.
        body: What is sent.
        content_length: What is promised; more than the body has: the connection closes in the middle of it.
        bytes_per_second: How slowly the body drips.
        stall_at: After so many bytes of the body nothing comes until the registry is released.
        reset_at: After so many bytes of the body the connection is reset.
        silent: Not even a status line comes until the registry is released.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    content_length: int | None = None
    bytes_per_second: int | None = None
    stall_at: int | None = None
    reset_at: int | None = None
    silent: bool = False


Fault: TypeAlias = Callable[[RecordedRequest, Response], Response]
"""Sees each request with the answer it would get, and returns the answer it gets."""


def oci_error(status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """Make an error as distribution-spec has them ("Error Codes")."""
    body = json.dumps({"errors": [{"code": code, "message": message or code.lower().replace("_", " ")}]})
    return Response(status, {"Content-Type": "application/json", **(headers or {})}, body.encode())


class ScriptedRegistry:
    """What a scripted registry serves and has been asked.

    Attributes:
        host: Its host and port.
        faults: Each bends the answer of the one before; change it whenever no request is under way.
        released: Set it to end all stalls, now and later.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.faults: tuple[Fault, ...] = ()
        self.released = threading.Event()
        self._pages: dict[str, Response] = {"/v2/": Response(200, {"Content-Type": "application/json"}, b"{}")}
        self._requests: list[RecordedRequest] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """All that it was asked since it started or was last told to `forget_requests`."""
        with self._lock:
            return tuple(self._requests)

    def count(self, pattern: str = "", *, method: str | None = "GET") -> int:
        """Count the requests whose path the pattern is found in; ``method=None`` counts those of every method."""
        asked = self.requests
        return sum(method in {None, each.method} and re.search(pattern, each.path) is not None for each in asked)

    def forget_requests(self) -> None:
        with self._lock:
            self._requests.clear()

    def reference(self, repository: str, tag: str = "latest") -> str:
        """Return the name of an image here; ``tag`` may also be a digest."""
        return f"{self.host}/{repository}{'@' if ':' in tag else ':'}{tag}"

    def serve(self, repository: str, tag: str, manifest: Manifest, *, foreign_layers: bool = False) -> str:
        """Serve a document with all that is below it; return its name."""
        for document in (*manifest.manifests, manifest):
            self.serve_manifest(repository, document.digest, document)
        for blob in manifest.blobs:
            if foreign_layers or not getattr(blob, "urls", ()):
                self.serve_blob(repository, blob)
        self.serve_manifest(repository, tag, manifest)
        return self.reference(repository, tag)

    def serve_manifest(self, repository: str, reference: str, manifest: Blob, *, digest: str | None = None) -> None:
        """Serve bytes under a tag or digest, whether or not they have that digest.

        Args:
            repository: Path of the repository.
            reference: Tag or digest.
            manifest: Its content and media type.
            digest: What ``Docker-Content-Digest`` says; the truth if not given.
        """
        headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": digest or manifest.digest}
        self._pages[f"/v2/{repository}/manifests/{reference}"] = Response(200, headers, manifest.content)

    def forget_manifest(self, repository: str, reference: str) -> None:
        """Serve no document any more under a tag or digest."""
        del self._pages[f"/v2/{repository}/manifests/{reference}"]

    def serve_blob(self, repository: str, blob: Blob, *, digest: str | None = None) -> None:
        """Serve a blob under its digest, or under one that is not its own."""
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest or blob.digest}
        self._pages[f"/v2/{repository}/blobs/{digest or blob.digest}"] = Response(200, headers, blob.content)

    def answer(self, request: RecordedRequest) -> Response:
        """Record a request and return what it gets."""
        with self._lock:
            self._requests.append(request)
        response = self._pages.get(request.path.partition("?")[0]) or _not_found(request.path)
        for fault in self.faults:
            response = fault(request, response)
        return response


@contextlib.contextmanager
def scripted_registry() -> Iterator[ScriptedRegistry]:
    """Run a scripted registry on loopback until the block ends; an error in one of its faults is raised there."""
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="scripted registry")
        thread.start()
        try:
            yield server.registry
        finally:
            server.shutdown()
            thread.join()
            server.end_connections()
    if server.broken is not None:
        raise server.broken


def _not_found(path: str) -> Response:
    code = "BLOB_UNKNOWN" if "/blobs/" in path else "MANIFEST_UNKNOWN"
    return oci_error(HTTPStatus.NOT_FOUND, code)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry = ScriptedRegistry(f"127.0.0.1:{self.server_port}")
        self.broken: BaseException | None = None
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()

    def finish_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        with self._open_lock:
            self._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            with self._open_lock:
                self._open.discard(request)

    def end_connections(self) -> None:
        """Let the threads end that wait for a client, or with one; server_close then joins them."""
        self.registry.released.set()
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(2)

    def handle_error(self, _request: object, _client_address: object) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.broken = self.broken or error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self.server.registry.answer(RecordedRequest(self.command, self.path, headers, body))
        if response.silent:
            self.server.registry.released.wait()
        promised = len(response.body) if response.content_length is None else response.content_length
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        if self.command == "HEAD":
            return
        if response.reset_at is not None:
            self._reset(response.body[: response.reset_at])
            return
        self._send(response)
        self.close_connection = self.close_connection or promised != len(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _reset(self, beginning: bytes) -> None:
        self.wfile.write(beginning)
        # A linger time of nothing makes close(2) send RST, and lets go of what was not sent yet (socket(7), tcp(7)).
        self.server.registry.released.wait(_BEFORE_RESET_SECONDS)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        raise ConnectionResetError

    def _send(self, response: Response) -> None:
        rate = response.bytes_per_second
        step = _CHUNK if rate is None else max(rate // _SLICES_PER_SECOND, 1)
        stall_at = len(response.body) if response.stall_at is None else response.stall_at
        body = memoryview(response.body)
        for start in range(0, len(body), step):
            end = min(start + step, len(body))
            if start <= stall_at < end:
                self.wfile.write(body[start:stall_at])
                self.server.registry.released.wait()
                start = stall_at  # noqa: PLW2901 - the rest of this slice
            self.wfile.write(body[start:end])
            if rate is not None:
                self.server.registry.released.wait(step / rate)

    def log_message(self, *_args: object) -> None:
        """Say nothing: what was asked is recorded."""
