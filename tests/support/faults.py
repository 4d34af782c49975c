"""What goes wrong with registries, for `ScriptedRegistry.faults`: when (`on`), and what."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import TypeAlias

from tests.support.scripted import Fault, RecordedRequest, Response, oci_error

Change: TypeAlias = Callable[[Response], Response]

MANIFESTS = "/manifests/"
BLOBS = "/blobs/"


def on(pattern: str, outcome: Response | Change, *, method: str | None = None, times: int | None = None) -> Fault:
    """Apply an answer, or a change of the right answer, to some requests.

    Args:
        pattern: Found in their paths.
        outcome: What they get, or what happens to what they would get.
        method: Only requests of this method.
        times: Only so many of them, the first ones.
    """
    lock = threading.Lock()
    left = times

    def fault(request: RecordedRequest, right: Response) -> Response:
        nonlocal left
        if re.search(pattern, request.path) is None or method not in {None, request.method}:
            return right
        with lock:
            if left == 0:
                return right
            left = None if left is None else left - 1
        return outcome if isinstance(outcome, Response) else outcome(right)

    return fault


def cut(at: int) -> Change:
    """Close the connection after so many bytes of the body."""
    return lambda right: replace(right, body=right.body[:at], content_length=len(right.body))


def reset(at: int = 0) -> Change:
    """Reset the connection after so many bytes of the body."""
    return lambda right: replace(right, reset_at=at)


def truncated(at: int) -> Change:
    """Serve so many bytes of the body as if they were all."""
    return lambda right: replace(right, body=right.body[:at])


def stalled(at: int = 0) -> Change:
    """Send so many bytes of the body, and then nothing until the registry is released."""
    return lambda right: replace(right, stall_at=at)


def silent() -> Change:
    """Answer nothing at all until the registry is released."""
    return lambda right: replace(right, silent=True)


def dripping(bytes_per_second: int) -> Change:
    return lambda right: replace(right, bytes_per_second=bytes_per_second)


def altered() -> Change:
    """Change the last byte of the body: same size, another digest."""
    return lambda right: replace(right, body=right.body[:-1] + bytes([right.body[-1] ^ 1]))


def without_header(name: str) -> Change:
    return lambda right: replace(
        right, headers={key: value for key, value in right.headers.items() if key.lower() != name.lower()}
    )


def with_header(name: str, value: str) -> Change:
    return lambda right: replace(right, headers={**right.headers, name: value})


def too_many_requests(retry_after: str | None = None) -> Response:
    """Refuse with 429; ``retry_after`` is seconds or an HTTP date."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return oci_error(HTTPStatus.TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "You have reached your pull rate limit.", headers)


def html(status: int, title: str = "Bad Gateway") -> Response:
    """Answer as a proxy in front of a registry does."""
    body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return Response(status, {"Content-Type": "text/html"}, body.encode())


def redirect(location: str, status: int = HTTPStatus.TEMPORARY_REDIRECT) -> Response:
    """Send clients to another URL, or to a path here; to the very path that they asked for it is a loop."""
    return Response(status, {"Location": location})


def basic_auth(user: str, password: str) -> Fault:
    """Let nobody in without these credentials."""
    challenge = oci_error(
        HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="tests"'}
    )

    def fault(request: RecordedRequest, right: Response) -> Response:
        return right if request.headers.get("authorization") == _basic(user, password) else challenge

    return fault


def bearer_auth(
    url: str,
    *,
    token: str = "issued by the tests",  # noqa: S107 - it opens nothing
    credentials: tuple[str, str] | None = None,
    claims: Mapping[str, object] | None = None,
) -> Fault:
    """Let nobody in without a token, and issue it at ``/token`` (distribution's spec/auth/token.md).

    Args:
        url: Of the registry itself, which is its own token server.
        token: What it issues and asks for.
        credentials: Whom it issues it to; to everyone if not given.
        claims: Fields that join those of its answer, such as ``{"expires_in": 60}``.
    """
    wanted = {"WWW-Authenticate": f'Bearer realm="{url}/token",service="tests"'}
    challenge = oci_error(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "authentication required", wanted)
    issued = Response(
        HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps({"token": token, **(claims or {})}).encode()
    )

    def fault(request: RecordedRequest, right: Response) -> Response:
        given = request.headers.get("authorization")
        if request.path.partition("?")[0] == "/token":
            known = credentials is None or given == _basic(*credentials)
            return issued if known else oci_error(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "wrong credentials")
        return right if given == f"Bearer {token}" else challenge

    return fault


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
