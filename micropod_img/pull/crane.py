"""The pinned crane as a child process: which words it is given, in which environment, and what its answers mean."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from micropod_img import run
from micropod_img.digest import Digest, parse_digest
from micropod_img.errors import IntegrityError, MicropodError, ToolError, UnavailableError, UnsupportedError, UsageError
from micropod_img.pull.crane_errors import Request, translate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.reference import Reference

MANIFEST_LIMIT = 4 << 20
"""Bytes of the largest manifest that is read (OCI distribution-spec: registries should accept 4 MiB)."""

# What decides how the network is reached, and nothing else, is taken over from the user's environment.
_NETWORK_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_SHORTEST_REPOSITORY = 2


def network_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment that decide how the network is reached."""
    return {name: environment[name] for name in _NETWORK_VARIABLES if name in environment}


@dataclass(frozen=True, slots=True)
class Access:
    """How one registry is reached for one call.

    Attributes:
        environment: The whole environment of crane's process, with its private DOCKER_CONFIG.
        insecure: Whether plain HTTP, and HTTPS without verification, are allowed.
    """

    environment: Mapping[str, str]
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long one reference may take, from when this value is made.

    Attributes:
        timeout: Seconds for all of it; None for no limit.
        stall_timeout: Seconds without an answer or a new byte.
    """

    timeout: float | None
    stall_timeout: float
    started: float = field(default_factory=time.monotonic)

    def expired(self) -> bool:
        """Whether the time for all of it is over."""
        return self.timeout is not None and time.monotonic() > self.started + self.timeout

    def for_request(self) -> float:
        """Return the seconds that one small request may take now."""
        if self.timeout is None:
            return self.stall_timeout
        return max(min(self.stall_timeout, self.started + self.timeout - time.monotonic()), 0.0)


class Crane:
    """Crane's commands that a pull needs.

    Args:
        program: Path of the verified binary.
        access: How the registry is reached.
        limits: How long requests may take.
    """

    def __init__(self, program: Path, access: Access, limits: TimeLimits) -> None:
        self._program = str(program)
        self._access = access
        self._limits = limits

    def manifest(self, target: str, request: Request, *, cancellation: Cancellation | None = None) -> bytes:
        """Return the exact bytes of a manifest or index.

        Raises:
            OutputLimitError: It is larger than `MANIFEST_LIMIT`.
            MicropodError: As `crane_errors` translates.
        """
        return self._run(["manifest", target], request, cancellation, MANIFEST_LIMIT)

    def digest(self, target: str, request: Request, *, cancellation: Cancellation | None = None) -> Digest:
        """Return the digest that a tag stands for now; the registry is asked for nothing else."""
        answer = self._run(["digest", target], request, cancellation, 1024).decode("utf-8", "replace").strip()
        try:
            return parse_digest(answer)
        except UsageError as error:
            raise IntegrityError(
                f"{request.endpoint} names {answer!r} as the digest of {request.ref}",
                code="malformed-digest",
                stage=request.stage,
                endpoint=request.endpoint,
            ) from error

    def blob(self, target: str, request: Request, *, limit: int, cancellation: Cancellation | None = None) -> bytes:
        """Return a small blob, such as a configuration, that the registry itself has.

        Raises:
            OutputLimitError: It is larger than ``limit`` bytes.
            MicropodError: As `crane_errors` translates.
        """
        return self._run(["blob", target], request, cancellation, limit)

    def start_pull(self, target: str, layout: Path, *, keep_open: Sequence[int]) -> run.Child:
        """Start to fetch an image by digest into an OCI layout.

        Args:
            target: Repository and digest.
            layout: A private directory; blobs that are in it already are not fetched.
            keep_open: Descriptors that the child holds until it ends.
        """
        return self._start(["pull", "--format=oci", target, str(layout)], keep_open)

    def _argv(self, words: Sequence[str]) -> list[str]:
        command, *arguments = words
        insecure = ["--insecure"] if self._access.insecure else []
        return [self._program, command, *insecure, *arguments]

    def _start(self, words: Sequence[str], keep_open: Sequence[int]) -> run.Child:
        try:
            return run.Child(self._argv(words), env=self._access.environment, pass_fds=keep_open)
        except run.ProgramNotFoundError as error:
            raise self._broken() from error

    def _run(self, words: Sequence[str], request: Request, cancellation: Cancellation | None, limit: int) -> bytes:
        seconds = self._limits.for_request()
        try:
            completed = run.run(
                self._argv(words),
                env=self._access.environment,
                timeout=seconds,
                stdout_limit=limit,
                cancellation=cancellation,
            )
        except run.ProgramNotFoundError as error:
            raise self._broken() from error
        except run.ChildTimeoutError as error:
            raise timed_out(request, self._limits.timeout or seconds) from error
        if completed.status != 0:
            raise translate(completed, request)
        return completed.stdout

    def _broken(self) -> ToolError:
        return ToolError(f"{self._program} cannot be run", code="tool-broken", hint="install micropod-img again")


def timed_out(request: Request, seconds: float) -> MicropodError:
    """Return the error for a registry that did not answer in time."""
    return UnavailableError(
        f"{request.endpoint} did not answer within {seconds:g} s ({request.ref})",
        code="timeout",
        hint="try again, or allow more with --timeout",
        stage=request.stage,
        endpoint=request.endpoint,
        retryable=True,
    )


def crane_target(reference: Reference, digest: Digest | None = None) -> str:
    """Return the words for crane that name an image, always canonical.

    Args:
        reference: What the user named; its digest, if it has one, decides.
        digest: A digest in its place.

    Raises:
        UnsupportedError: The name is well-formed, and crane cannot fetch it.
    """
    decides = digest or reference.digest
    if not reference.domain:
        raise UnsupportedError(
            f"{reference} cannot be fetched: {reference.path.partition('/')[0]!r} is no name of a host",
            code="reference-unsupported",
            stage="resolve",
        )
    if len(reference.path) < _SHORTEST_REPOSITORY:
        raise UnsupportedError(
            f"{reference} cannot be fetched: crane knows no repository names of one character",
            code="reference-unsupported",
            stage="resolve",
            endpoint=reference.domain,
        )
    if decides is not None and not decides.startswith("sha256:"):
        raise UnsupportedError(
            f"{reference} cannot be fetched: crane knows sha256 digests only",
            code="reference-unsupported",
            stage="resolve",
            endpoint=reference.domain,
        )
    return f"{reference.name}@{decides}" if decides else f"{reference.name}:{reference.tag}"


def private_environment(directory: Path) -> dict[str, str]:
    """Return the environment of a crane that finds no credential of anybody, and the user's network settings."""
    return {
        **network_environment(os.environ),
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "DOCKER_CONFIG": str(directory),
    }
