"""The credential helper of `micropod-img crane`: crane asks it, and it looks where a pull looks.

Docker's protocol for helpers (docker-credential-helpers): the action is the argument, the registry comes on stdin, and
the answer, or what went wrong, goes to stdout. Started by ``_crane/docker-credential-micropod-img``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from micropod_img.errors import AuthError, MicropodError
from micropod_img.pull.auth_files import canonical_host, registry_of_key
from micropod_img.pull.crane_credentials import may_receive_credentials
from micropod_img.pull.credentials import find_credential
from micropod_img.pull.passthrough import HELPER_INSECURE, users_environment
from micropod_img.pull.secret import TOKEN_USERNAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from micropod_img.pull.credentials import FoundCredential

_NOTHING = "credentials not found in native keychain"


def main(arguments: Sequence[str]) -> int:
    """Answer one question; return the exit status."""
    try:
        answer = _answer(arguments, sys.stdin.readline().strip(), os.environ)
    except MicropodError as error:
        sys.stdout.write(f"{error.message}\n")
        return 1
    sys.stdout.write(f"{_NOTHING if answer is None else json.dumps(answer)}\n")
    return 1 if answer is None else 0


def _answer(arguments: Sequence[str], server: str, environment: Mapping[str, str]) -> dict[str, str] | None:
    if list(arguments) != ["get"]:
        raise AuthError("credentials are stored by micropod-img login, and removed by micropod-img logout")
    host, _, repository = (registry_of_key(server) or server).partition("/")
    own = users_environment(environment)
    found = find_credential(canonical_host(host), repository, environment=own)
    if found is None:
        return None
    if may_receive_credentials(host, insecure=bool(environment.get(HELPER_INSECURE))):
        return _document(server, found)
    # After that crane asks for the registry as a whole; what is found there again is told of once.
    if not repository or find_credential(canonical_host(host), "", environment=own) != found:
        sys.stderr.write(
            f"micropod-img: crane may ask {host} over plain HTTP, so it is not shown the credential of {found.source};"
            " --insecure shows it\n"
        )
    return None


def _document(server: str, found: FoundCredential) -> dict[str, str]:
    credential = found.credential
    if credential.registry_token is not None:
        raise AuthError(f"{found.source} is a registry token, which no helper can hand to crane")
    if credential.identity_token is not None:
        username, secret = TOKEN_USERNAME, credential.identity_token.reveal()
    else:
        username, secret = credential.username or "", credential.password.reveal() if credential.password else ""
    return {"ServerURL": server, "Username": username, "Secret": secret}
