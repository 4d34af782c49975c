"""A token server for a scripted registry: Bearer challenges, Basic and OAuth 2 exchange, scopes, refresh tokens.

As distribution has them: "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import base64
import json
import re
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
        writable: Those of them that everybody with credentials may push to.
        asked: The scopes that were asked for, in order.
        oauth2: Whether it knows OAuth 2; without, identity tokens are of no use.
        refusal: The status of an answer to wrong credentials.
    """

    registry: ScriptedRegistry
    users: dict[str, str] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    readable: set[str] = field(default_factory=set)
    writable: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    oauth2: bool = True
    refusal: int = 401
    _tokens: dict[str, set[str]] = field(default_factory=dict)

    def __call__(self, request: RecordedRequest, response: Response) -> Response:
        """Answer for the token server, or let a request through to the registry."""
        address = urlsplit(request.path)
        if address.path == "/token":
            return self._exchange(request, parse_qs(address.query))
        scopes = self._tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        repository = re.split("/(?:blobs|manifests|tags)/", address.path.removeprefix("/v2/"))[0]
        action = "pull" if request.method in {"GET", "HEAD"} else "push"
        if scopes is not None and (not repository or f"repository:{repository}:{action}" in scopes):
            return response
        challenge = f'Bearer realm="{self.registry.url}/token",service="tests"'
        if repository:
            challenge += f',scope="repository:{repository}:{"pull" if action == "pull" else "pull,push"}"'
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

    def _granted(self, kind: str, repository: str, actions: str) -> set[str]:
        allowed = {"pull": self.readable, "push": self.writable}
        return {f"{kind}:{repository}:{one}" for one in actions.split(",") if repository in allowed.get(one, ())}

    def _token(self, scopes: list[str], name: str) -> Response:
        token = secrets.token_urlsafe()
        self.asked += scopes
        self._tokens[token] = {one for scope in scopes for one in self._granted(*scope.split(":"))}
        return Response(
            200, {"Content-Type": "application/json"}, json.dumps({name: token, "expires_in": 300}).encode()
        )
