"""Push documents and blobs to a registry as they are, over its plain HTTP API (distribution-spec, "Push").

No client is between: it would refuse, or repair, what some tests must be able to push.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.support.layers import Blob, Layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.images import Manifest
    from tests.support.registries import Registry


class PushRefusedError(Exception):
    """The registry did not take it: ``status`` and the body of its answer."""

    def __init__(self, what: str, status: int, body: str) -> None:
        super().__init__(f"{what}: {status} {body}")
        self.status = status
        self.body = body


def push(registry: Registry, repository: str, tag: str, manifest: Manifest, *, foreign_layers: bool = False) -> str:
    """Push a document with all that is below it.

    Args:
        registry: Where to.
        repository: Its path there.
        tag: Or a digest.
        manifest: Pushed last, as it is.
        foreign_layers: Push these too; registries need not hold them.

    Returns:
        Its name, ``host:port/repository:tag``.

    Raises:
        PushRefusedError: The registry does not take it.
    """
    with _session(registry) as session:
        for blob in manifest.blobs:
            if foreign_layers or not (isinstance(blob, Layer) and blob.urls):
                session.push_blob(repository, blob)
        for document in manifest.manifests:
            session.push_manifest(repository, document.digest, document)
        session.push_manifest(repository, tag, manifest)
    return registry.reference(repository, tag)


def push_blob(registry: Registry, repository: str, blob: Blob) -> None:
    """Push one blob that no document needs to name."""
    with _session(registry) as session:
        session.push_blob(repository, blob)


class _Session:
    def __init__(self, connection: http.client.HTTPConnection, credentials: tuple[str, str] | None) -> None:
        self._connection = connection
        self._headers: dict[str, str] = {}
        if credentials is not None:
            token = base64.b64encode(":".join(credentials).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def push_blob(self, repository: str, blob: Blob) -> None:
        if self._ask("HEAD", f"/v2/{repository}/blobs/{blob.digest}")[0] == HTTPStatus.OK:
            return
        status, body, location = self._ask("POST", f"/v2/{repository}/blobs/uploads/")
        if status != HTTPStatus.ACCEPTED:
            raise PushRefusedError(f"upload to {repository}", status, body)
        target = urlsplit(location)
        query = f"{target.query}&" if target.query else ""
        status, body, _ = self._ask(
            "PUT",
            f"{target.path}?{query}digest={blob.digest}",
            blob.content,
            {"Content-Type": "application/octet-stream"},
        )
        if status != HTTPStatus.CREATED:
            raise PushRefusedError(f"blob {blob.digest}", status, body)

    def push_manifest(self, repository: str, reference: str, manifest: Manifest) -> None:
        path = f"/v2/{repository}/manifests/{reference}"
        status, body, _ = self._ask("PUT", path, manifest.content, {"Content-Type": manifest.media_type})
        if status != HTTPStatus.CREATED:
            raise PushRefusedError(f"manifest {repository}:{reference}", status, body)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        # A registry that refuses early closes before it has read the body; its answer can still be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.request(method, path, body, {**self._headers, **(headers or {})})
        with self._connection.getresponse() as response:
            return response.status, response.read().decode(errors="replace"), response.getheader("Location", "")


@contextlib.contextmanager
def _session(registry: Registry) -> Iterator[_Session]:
    connection = (
        http.client.HTTPConnection(registry.host, timeout=60)
        if registry.ca is None
        else http.client.HTTPSConnection(registry.host, timeout=60, context=registry.tls_context)
    )
    with contextlib.closing(connection):
        yield _Session(connection, registry.credentials)
