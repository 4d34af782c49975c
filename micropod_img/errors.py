"""Every error that a user can meet, each with the exit status that CONTRACT.md promises for its kind."""

from __future__ import annotations

from typing import ClassVar


class MicropodError(Exception):
    """An error with everything that its user needs; raised once, where it is understood.

    Args:
        message: What happened to which reference or path, in a user's words.
        code: A short machine-readable name, such as ``manifest-unknown``; stable across releases.
        hint: The next step, where there is one.
        stage: What was being done: ``resolve``, ``fetch``, ``verify``, ``publish``, …
        endpoint: The registry that was asked, ``host[:port]``.
        retryable: Whether the same call may succeed later without anything being changed.
        detail: The words of crane or umoci, in full; shown with ``-v`` and in JSON.
    """

    exit_status: ClassVar[int] = 1
    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        stage: str | None = None,
        endpoint: str | None = None,
        retryable: bool = False,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.stage = stage
        self.endpoint = endpoint
        self.retryable = retryable
        self.detail = detail

    def __str__(self) -> str:
        return self.message


class InternalError(MicropodError):
    """A bug in micropod-img."""


class UsageError(MicropodError):
    """A bad option, reference, platform or pod id."""

    exit_status = 2
    default_code = "usage"


class InvalidReference(UsageError):  # noqa: N818 - the name is part of the public contract
    """Text that the grammar of distribution/reference rejects."""

    default_code = "invalid-reference"


class NotFoundError(MicropodError):
    """An image or pod that is unknown here; a manifest, tag or repository that is unknown there."""

    exit_status = 3
    default_code = "not-found"


class AuthError(MicropodError):
    """Credentials are missing, wrong, or do not allow this."""

    exit_status = 4
    default_code = "unauthorized"


class UnavailableError(MicropodError):
    """The registry or the network is out of reach, timed out, or answered 5xx."""

    exit_status = 5
    default_code = "unavailable"


class RateLimitedError(MicropodError):
    """The registry answered 429.

    Attributes:
        retry_after: Seconds that the registry asks to wait (Retry-After); None if it does not say.
    """

    exit_status = 6
    default_code = "rate-limited"
    retry_after: float | None = None


class IntegrityError(MicropodError):
    """A digest, size or diff ID does not match; a blob or the index is corrupt."""

    exit_status = 7
    default_code = "integrity"


class UnsupportedError(MicropodError):
    """Schema 1, no such platform, an artifact and not an image, an unknown media type."""

    exit_status = 8
    default_code = "unsupported"


class ConflictError(MicropodError):
    """Something exists already, is in use, or is locked."""

    exit_status = 9
    default_code = "conflict"


class DiskError(MicropodError):
    """The disk is full or read-only, or the store may not be written."""

    exit_status = 10
    default_code = "disk"


class ToolError(MicropodError):
    """Crane or umoci is missing, altered or broken."""

    exit_status = 11
    default_code = "tool"


class UnsafeError(MicropodError):
    """An image that tries to escape, or goes over a limit."""

    exit_status = 12
    default_code = "unsafe"


class InterruptedBySignalError(MicropodError):
    """SIGINT or SIGTERM ended the work; nothing half-done was left behind.

    Args:
        signal_number: The signal; the exit status is 128 plus this number.
    """

    default_code = "interrupted"

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted; nothing half-done was left behind")
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number  # type: ignore[misc]  # the one status that its instance decides
