"""A token server for a scripted registry: Bearer challenges, Basic and OAuth 2 exchange, scopes, refresh tokens.

As distribution has them: "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.support.scripted import RecordedRequest, Response, ScriptedRegistry, oci_error


@dataclass
class TokenServer:
    """Lets only those into a registry who hold a token of its own; a fault of a `ScriptedRegistry`.

    Attributes:
        registry: The registry, at which the token server lives too, under ``/token``.
        users: Passwords by user name.
        refresh_tokens: Identity tokens that are taken.
        readable: Repositories that everybody with credentials may read.
        oauth2: Whether it knows OAuth 2; without, identity tokens are of no use.
        refusal: The status of an answer to wrong credentials.
    """

    registry: ScriptedRegistry
    users: dict[str, str] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    readable: set[str] = field(default_factory=set)
    oauth2: bool = True
    refusal: int = 401
    _tokens: dict[str, set[str]] = field(default_factory=dict)

    def __call__(self, request: RecordedRequest, response: Response) -> Response:
        """Answer for the token server, or let a request through to the registry."""
        address = urlsplit(request.path)
        if address.path == "/token":
            return self._exchange(request, parse_qs(address.query))
        scopes = self._tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        wanted = address.path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
        if scopes is not None and (not wanted or f"repository:{wanted}:pull" in scopes):
            return response
        challenge = f'Bearer realm="{self.registry.url}/token",service="tests"'
        if wanted:
            challenge += f',scope="repository:{wanted}:pull"'
        return oci_error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": challenge})

    def _exchange(self, request: RecordedRequest, query: dict[str, list[str]]) -> Response:
        if request.method == "POST":
            form = parse_qs(request.body.decode())
            if not self.oauth2:
                return Response(404)
            if form["refresh_token"][0] not in self.refresh_tokens:
                return Response(self.refusal, {}, b'{"details": "invalid refresh token"}')
            return self._token(form["scope"][0].split(), "access_token")
        shown = request.headers.get("authorization")
        if shown is None:
            return self._token([], "token")
        user, _, password = base64.b64decode(shown.removeprefix("Basic ")).decode().partition(":")
        if self.users.get(user) != password:
            return Response(self.refusal, {}, b'{"details": "incorrect username or password"}')
        return self._token(query.get("scope", []), "token")

    def _token(self, scopes: list[str], name: str) -> Response:
        token = secrets.token_urlsafe()
        self._tokens[token] = {scope for scope in scopes if scope.split(":")[1] in self.readable}
        return Response(
            200, {"Content-Type": "application/json"}, json.dumps({name: token, "expires_in": 300}).encode()
        )
