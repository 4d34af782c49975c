"""A credential, and the wrapper that keeps what is secret in it out of every text."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TypeGuard

from micropod_img.errors import UsageError

_HIDDEN = "***"
TOKEN_USERNAME = "<token>"  # noqa: S105 - no secret
"""The name that docker-credential-helpers give to the user of an identity token."""


class Secret:
    """A text that only `reveal` shows: not repr, str, format, ``dataclasses.asdict`` or a traceback with locals.

    Args:
        text: What is to be kept. Bytes that are not UTF-8 are escaped as by ``surrogateescape``.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({_HIDDEN})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a registry, or its token server, is shown: user name and password, or a token.

    Made by the ``from_…`` methods. An entry of an auth file can have several of them; as crane does, a registry token
    goes before an identity token, and that before user name and password.

    Attributes:
        username: The user that the password is of.
        password: The password, or what a registry takes in its place (an access token of the user's).
        identity_token: An OAuth 2 refresh token, which the token server exchanges for a registry token.
        registry_token: A bearer token that the registry itself takes as it is.
    """

    username: str | None = None
    password: Secret | None = None
    identity_token: Secret | None = None
    registry_token: Secret | None = None

    @classmethod
    def from_password(cls, username: str, password: str) -> Credential:
        """Make the credential of a user.

        Raises:
            UsageError: One of them is empty or no text, or the name has a colon (RFC 7617, section 2).
        """
        if not is_text(username):
            raise UsageError("the user name is empty or not text", code="invalid-credential")
        if ":" in username:
            raise UsageError(f"the user name {username!r} has a colon", code="invalid-credential")
        if not is_text(password):
            raise UsageError(f"the password of {username!r} is empty or not text", code="invalid-credential")
        return cls(username=username, password=Secret(password))

    @classmethod
    def from_identity_token(cls, token: str) -> Credential:
        """Make a credential of an OAuth 2 refresh token.

        Raises:
            UsageError: It is empty or no text.
        """
        return cls(identity_token=_token(token))

    @classmethod
    def from_registry_token(cls, token: str) -> Credential:
        """Make a credential of a bearer token for the registry itself.

        Raises:
            UsageError: It is empty or no text.
        """
        return cls(registry_token=_token(token))

    def entry(self) -> dict[str, str]:
        """Return the entry of an auth file that crane, docker and Podman all understand; it is secret."""
        fields: dict[str, str] = {}
        if self.password is not None or self.identity_token is not None:
            # Podman drops an identity token that has no user beside it, Docker refuses a file with an empty user name.
            password = "" if self.password is None else self.password.reveal()
            fields["auth"] = base64.b64encode(
                f"{self.username or TOKEN_USERNAME}:{password}".encode("utf-8", "surrogateescape")
            ).decode("ascii")
        if self.identity_token is not None:
            fields["identitytoken"] = self.identity_token.reveal()
        if self.registry_token is not None:
            fields["registrytoken"] = self.registry_token.reveal()
        return fields

    def redact(self, text: str) -> str:
        """Return another program's words without this credential, should they hold it, in plain or as it is sent."""
        secrets = [each.reveal() for each in (self.password, self.identity_token, self.registry_token) if each]
        for secret in (*secrets, *self.entry().values()):
            text = text.replace(secret, _HIDDEN)
        return text


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a string with something in it that can be written as bytes."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _token(text: str) -> Secret:
    if not is_text(text):
        raise UsageError("the token is empty or not text", code="invalid-credential")
    return Secret(text)
