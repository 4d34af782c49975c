"""A scripted registry that takes pushes (distribution-spec, "Push"): uploads in parts, then blobs and manifests."""

from __future__ import annotations

import hashlib
import itertools
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from tests.support.layers import Blob
from tests.support.scripted import RecordedRequest, Response, ScriptedRegistry, oci_error


@dataclass
class Uploads:
    """Lets a scripted registry keep what is pushed to it; the first of its faults.

    Attributes:
        registry: The registry.
        taken: How often each blob arrived whole, by digest.
    """

    registry: ScriptedRegistry
    taken: dict[str, int] = field(default_factory=dict)
    _open: dict[str, bytes] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: RecordedRequest, response: Response) -> Response:
        """Take what a request brings; what is only asked for is answered as ever."""
        address = urlsplit(request.path)
        repository, _, rest = address.path.removeprefix("/v2/").partition("/blobs/uploads/")
        with self._lock:
            if request.method == "POST" and not rest:
                return self._accepted(repository, str(next(self._numbers)), b"")
            if request.method == "PATCH" and rest in self._open:
                return self._accepted(repository, rest, self._open[rest] + request.body)
            if request.method == "PUT" and rest in self._open:
                return self._blob(repository, parse_qs(address.query)["digest"][0], self._open.pop(rest) + request.body)
            if request.method == "PUT" and "/manifests/" in address.path:
                return self._manifest(address.path, request)
        return response

    def _accepted(self, repository: str, name: str, content: bytes) -> Response:
        self._open[name] = content
        headers = {"Location": f"/v2/{repository}/blobs/uploads/{name}", "Range": f"0-{max(len(content) - 1, 0)}"}
        return Response(HTTPStatus.ACCEPTED, headers)

    def _blob(self, repository: str, digest: str, content: bytes) -> Response:
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            return oci_error(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID")
        self.registry.serve_blob(repository, Blob("application/octet-stream", content))
        self.taken[digest] = self.taken.get(digest, 0) + 1
        return Response(HTTPStatus.CREATED, {"Location": f"/v2/{repository}/blobs/{digest}"})

    def _manifest(self, path: str, request: RecordedRequest) -> Response:
        repository, _, reference = path.removeprefix("/v2/").partition("/manifests/")
        document = Blob(request.headers["content-type"], request.body)
        for name in (reference, document.digest):
            self.registry.serve_manifest(repository, name, document)
        return Response(HTTPStatus.CREATED, {"Docker-Content-Digest": document.digest})
