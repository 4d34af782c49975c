"""Credential helpers: the user's own ``docker-credential-NAME`` programs, really run.

The protocol is that of docker-credential-helpers: an action as the one argument, the registry (or a JSON document) on
stdin, a JSON document or an error's text on stdout. A helper is part of the user's session and gets the user's
environment, as from docker and Podman: keyrings, gpg, AWS or gcloud are found through it.

What a helper says holds secrets, also where it fails: none of it is repeated. No frame from which an error is raised
has it as a local variable, and errors are not chained to those of the JSON parser, which hold the whole document. A
helper has its time, and no terminal.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import run
from micropod_img.errors import AuthError
from micropod_img.invoker import as_invoker
from micropod_img.pull.auth_files import printable, registry_of_key
from micropod_img.pull.secret import TOKEN_USERNAME, Credential, Secret, is_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from micropod_img.cancellation import Cancellation

HELPER_TIMEOUT = 60.0
"""Seconds for one answer: a keyring may ask its user for a passphrase, in a window of its own."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_NOT_FOUND = "credentials not found in native keychain"
_ITS_WORDS = "it says more when it is run by hand: echo {server} | {program} get"
_INSTALL = "install it, or take its name out of that file"


@dataclass(frozen=True, slots=True)
class _Failure:
    """What went wrong, free of secrets; the caller raises it."""

    what: str
    detail: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class CredentialHelper:
    """One helper program, as an auth file names it.

    Args:
        name: What follows ``docker-credential-``.
        named_in: Where it is configured, for errors.
        environment: The user's environment; its PATH says where the program is.
        timeout: Seconds for one answer.
        cancellation: Ends the wait for it.
    """

    name: str
    named_in: str
    environment: Mapping[str, str]
    timeout: float = HELPER_TIMEOUT
    cancellation: Cancellation | None = None

    def get(self, server: str) -> Credential | None:
        """Return the credential that the helper has for a registry.

        Args:
            server: The registry, in the words under which it was stored.

        Returns:
            The credential; None when the helper has none.

        Raises:
            AuthError: The helper is missing, failed, or gave an answer that is not understood.
        """
        answer = self._asked(server)
        if isinstance(answer, _Failure):
            raise self._error("get", server, answer)
        return answer

    def store(self, server: str, credential: Credential) -> None:
        """Let the helper keep a credential.

        Raises:
            AuthError: The helper is missing or failed.
        """
        failure = _failure_of(self._run("store", _store_request(server, credential)))
        if failure is not None:
            raise self._error("store", server, failure)

    def erase(self, server: str) -> None:
        """Let the helper forget the credential of a registry.

        Raises:
            AuthError: The helper is missing or failed.
        """
        failure = _failure_of(self._run("erase", server.encode("utf-8", "replace")))
        if failure is not None:
            raise self._error("erase", server, failure)

    def _asked(self, server: str) -> Credential | _Failure | None:
        completed = self._run("get", server.encode("utf-8", "replace"))
        if isinstance(completed, _Failure):
            return completed
        if _says_not_found(completed):
            return None
        return _failure_of(completed) or _credential_in(completed.stdout)

    def _run(self, action: str, stdin: bytes) -> run.Completed | _Failure:
        """Run the helper; errors are returned, as this frame and those below hold what is secret."""
        if re.fullmatch(_NAME, self.name) is None:
            return _Failure("has no usable name", hint="a helper is named as in docker-credential-NAME")
        program = shutil.which(f"docker-credential-{self.name}", path=self._search_path())
        if program is None:
            return _Failure("is not in PATH", hint=_INSTALL)
        try:
            return run.run(
                [*as_invoker(), program, action],
                env=self.environment,
                stdin=stdin,
                timeout=self.timeout,
                cancellation=self.cancellation,
            )
        except run.ProgramNotFoundError as error:
            return _Failure("cannot be run", detail=str(error.__cause__ or error), hint=_INSTALL)
        except run.ChildTimeoutError:
            return _Failure(f"did not answer within {self.timeout:.3g} s")
        except run.OutputLimitError:
            return _Failure("wrote far more than an answer")

    def _search_path(self) -> str:
        # As Go's exec.LookPath has it since 1.19: never a program from the directory that happens to be the current.
        return ":".join(each for each in self.environment.get("PATH", "").split(":") if each.startswith("/"))

    def _error(self, action: str, server: str, failure: _Failure) -> AuthError:
        program = f"docker-credential-{self.name}" if re.fullmatch(_NAME, self.name) else ascii(self.name)
        return AuthError(
            f"{self.named_in}: credential helper {program} {failure.what} ({action} {printable(server)})",
            code="credential-helper",
            hint=failure.hint and failure.hint.format(server=printable(server), program=program),
            stage="credentials",
            endpoint=registry_of_key(server),
            detail=failure.detail,
        )


def _store_request(server: str, credential: Credential) -> bytes:
    if credential.identity_token is not None:
        username, secret = TOKEN_USERNAME, credential.identity_token
    else:
        username, secret = credential.username or "", credential.password or Secret("")
    return json.dumps({"ServerURL": server, "Username": username, "Secret": secret.reveal()}).encode() + b"\n"


def _says_not_found(completed: run.Completed) -> bool:
    said = (completed.stdout.decode("utf-8", "replace").strip(), completed.stderr.strip())
    return completed.status != 0 and _NOT_FOUND in said


def _failure_of(completed: run.Completed | _Failure) -> _Failure | None:
    """Return the failure that an exit status means, and how to see the helper's own words: they may be secret."""
    if isinstance(completed, _Failure):
        return completed
    if completed.status == 0:
        return None
    return _Failure(f"failed with status {completed.status}", hint=_ITS_WORDS)


def _credential_in(answer: bytes) -> Credential | _Failure | None:
    try:
        document: object = json.loads(answer)
    except (ValueError, RecursionError):
        return _Failure("did not answer in JSON")
    if not isinstance(document, dict):
        return _Failure("did not answer with a JSON object")
    username, secret = document.get("Username", ""), document.get("Secret", "")
    if secret == "":
        return None
    if not is_text(username) or not is_text(secret):
        return _Failure("answered with something other than a user name and a secret")
    if username == TOKEN_USERNAME:
        return Credential(identity_token=Secret(secret))
    return Credential(username=username, password=Secret(secret))
