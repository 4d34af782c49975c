"""Ask a registry whether it takes a credential, before that is stored."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from micropod_img.errors import AuthError, InvalidReference, UsageError
from micropod_img.pull.auth_files import canonical_host, registry_of_key
from micropod_img.pull.crane_credentials import https_only_name
from micropod_img.pull.crane_errors import Request, translate
from micropod_img.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from micropod_img.errors import MicropodError
    from micropod_img.pull.secret import Credential
    from micropod_img.run import Completed

_STAGE = "login"
_PROBE = "login-check"
_EXAMPLE = "a registry is HOST[:PORT], such as registry.example.com, or HOST[:PORT]/NAMESPACE for a part of one"

# Lines of crane's debug log. The bodies of token requests are left out of it, and it says so.
_TOKEN_ANSWER = re.compile(r"<-- (\d{3}) \S+ \(\S+\) \[body redacted: (basic|oauth) token ")
_CHALLENGE = re.compile(r"<-- 401 \S+/v2/ ")
_QUESTION = re.compile(rf"--> GET \S+/manifests/{_PROBE}\b")
_MANIFEST_ANSWER = re.compile(rf"<-- (\d{{3}}) \S+/manifests/{_PROBE} ")

_REFUSALS: dict[int, str] = {HTTPStatus.UNAUTHORIZED: "unauthorized", HTTPStatus.FORBIDDEN: "denied"}
_NO_ACCEPTANCE = {*_REFUSALS, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True, slots=True)
class LoginTarget:
    """What a credential is for: a registry, or a namespace or repository in it (then ``namespace`` is not empty)."""

    host: str
    namespace: str = ""

    @classmethod
    def parse(cls, text: str) -> LoginTarget:
        """Parse a registry as users write it; of a URL the host counts, as with Docker.

        Args:
            text: ``HOST[:PORT]``, ``HOST[:PORT]/NAMESPACE`` as Podman has it, or a URL of the registry.

        Raises:
            UsageError: It names no registry, or an image in one.
        """
        if "@" in text:  # not quoted: what stands before the @ may be a password
            raise UsageError("a registry is named without a user, a password or a digest", hint=_EXAMPLE)
        host, _, namespace = (registry_of_key(text) or text).partition("/")
        if ":" in namespace:
            raise UsageError(f"{text!r} is an image, not a registry", hint=_EXAMPLE)
        try:
            probe = Reference.parse(f"{host}/{namespace or _PROBE}")
        except InvalidReference as error:
            raise UsageError(f"{text!r} is not a registry: {error}", hint=_EXAMPLE) from error
        if probe.domain != host and probe.domain != canonical_host(host):
            raise UsageError(f"{text!r} is not a registry: it has no dot and no port", hint=_EXAMPLE)
        return cls(canonical_host(host), namespace)

    @property
    def probe(self) -> Reference:
        """The repository that is asked for: the namespace itself, or one that should not exist."""
        return Reference.parse(f"{self.host}/{self.namespace or _PROBE}")

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}" if self.namespace else self.host


class LoginCheck(enum.Enum):
    """What was learned of a credential that was not refused."""

    ACCEPTED = "accepted"
    UNPROVED = "unproved"
    """The registry asks nobody for credentials, or its token server does not look at identity tokens."""


class CraneRunner(Protocol):
    """Runs crane to its end with one credential, in a private configuration (`private_docker_config`)."""

    def __call__(self, arguments: Sequence[str], *, host: str, credential: Credential) -> Completed:
        """Run crane.

        Args:
            arguments: All of its words.
            host: The registry as ``arguments`` name it.
            credential: What crane may send there.

        Returns:
            How it ended; a status that is not 0 is for the caller to judge.
        """


def check_login(
    target: LoginTarget, credential: Credential, *, run_crane: CraneRunner, insecure: bool = False
) -> LoginCheck:
    """Ask a registry whether it takes a credential.

    Crane has no command for that: its ``auth login`` asks nobody, and its ``auth token`` knows neither Basic
    authentication nor ``--insecure``. So a manifest is asked for that should not exist, and crane's debug log tells the
    rest. With a Bearer challenge the credential is shown to the token server, whose answer decides, as for ``docker
    login``; what the registry says to the token does not, as few may read what does not exist. Without one, "unknown"
    comes after the credential was accepted, and "unauthorized" in its place. The log holds no credential and no token.

    A token server that gives its anonymous token to whoever shows a wrong password cannot be told from one that checks.

    Args:
        target: The registry; a namespace in it is the repository that is asked for.
        credential: What to show it.
        run_crane: Runs crane with that credential.
        insecure: Whether plain HTTP, and HTTPS without verification, are allowed.

    Returns:
        Whether it was accepted, or just not refused.

    Raises:
        AuthError: The registry refused, or would have to be sent the credential over plain HTTP.
        UsageError: The credential is a registry token, which is for one repository and for minutes.
        MicropodError: The registry was not reached; as `crane_errors` translates.
    """
    if credential.registry_token is not None:
        raise UsageError(
            "a registry token is for one repository and lasts for minutes: it is not stored",
            code="invalid-credential",
            hint="give it to each call instead",
            stage=_STAGE,
            endpoint=target.host,
        )
    host = target.host if insecure else https_only_name(target.host)
    completed = run_crane(
        ["manifest", "-v", *(["--insecure"] if insecure else []), f"{host}/{target.namespace or _PROBE}:{_PROBE}"],
        host=host,
        credential=credential,
    )
    status, shown_to_nobody = _decisive_answer(completed.stderr)
    if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NO_ACCEPTANCE:
        proved = _CHALLENGE.search(completed.stderr) is not None and not shown_to_nobody
        return LoginCheck.ACCEPTED if proved else LoginCheck.UNPROVED
    raise _error_of(completed, target, credential, host, _REFUSALS.get(status or 0))


def _decisive_answer(log: str) -> tuple[int | None, bool]:
    """Return the status that decides: the token server's first, else the registry's last.

    Returns:
        The status, None when there was no answer that means anything; and whether the token server does not know
        OAuth 2: crane then goes on as nobody (distribution, "OAuth2 Token Authentication").
    """
    token = _TOKEN_ANSWER.search(log)
    if token is None:
        answers = _MANIFEST_ANSWER.findall(log)
        return (int(answers[-1]) if answers else None), False
    status, is_oauth2 = int(token[1]), token[2] == "oauth"
    if is_oauth2 and status == HTTPStatus.BAD_REQUEST:  # invalid_grant (RFC 6749, section 5.2)
        return HTTPStatus.UNAUTHORIZED, False
    shown_to_nobody = is_oauth2 and status == HTTPStatus.NOT_FOUND
    if status == HTTPStatus.OK or shown_to_nobody:
        # What the token server calls a token may be none; with one, crane asks the registry.
        return (status if _QUESTION.search(log) else None), shown_to_nobody
    return (status if status in _REFUSALS else None), False


def _error_of(
    completed: Completed, target: LoginTarget, credential: Credential, host: str, refusal: str | None
) -> MicropodError:
    """Return the error that the last words of a crane that failed mean for a login."""
    words = credential.redact(completed.stderr.rpartition("Error: ")[2]).replace(host, target.host)
    error = translate(
        replace(completed, stdout=b"", stderr=f"Error: {words}"),
        Request(ref=str(target), endpoint=target.host, stage=_STAGE),
    )
    if error.code == "plain-http":
        return AuthError(
            f"{target.host} speaks plain HTTP: credentials are not sent over it",
            code="credentials-withheld",
            hint="if you trust the network in between: --insecure",
            stage=_STAGE,
            endpoint=target.host,
            detail=error.detail,
        )
    if refusal is not None:
        whose = f"the credentials of {credential.username}" if credential.username else "the token"
        return AuthError(
            f"{target.host} did not accept {whose}",
            code=refusal,
            hint=None if target.namespace else "if they are for a part of it only, log in to HOST/NAMESPACE/REPOSITORY",
            stage=_STAGE,
            endpoint=target.host,
            detail=error.detail,
        )
    return error
