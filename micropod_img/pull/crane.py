"""The pinned crane as a child process: which words it is given, in which environment, and what its answers mean."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from micropod_img import media_types, run
from micropod_img.digest import Digest, parse_digest
from micropod_img.errors import (
    IntegrityError,
    MicropodError,
    RateLimitedError,
    ToolError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from micropod_img.pull.crane_errors import DOCKER_HUB, Request, translate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.pull.access import Access
    from micropod_img.pull.retry import Retries

_SHORTEST_REPOSITORY = 2
_TAGS_LIMIT = 64 << 20


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
        return self.seconds_left() == 0.0

    def seconds_left(self) -> float | None:
        """Return the seconds that are left for all of it; None for no limit."""
        return None if self.timeout is None else max(self.started + self.timeout - time.monotonic(), 0.0)

    def for_request(self) -> float:
        """Return the seconds that one small request may take now."""
        left = self.seconds_left()
        return self.stall_timeout if left is None else min(self.stall_timeout, left)


class Crane:
    """Crane's commands that a pull needs.

    Args:
        program: Path of the verified binary.
        access: The registry, and how it is reached.
        limits: How long requests may take.
        retries: Repeats small requests where that can help; without it none is.
        reached: Whether the registry has answered before.
    """

    def __init__(
        self,
        program: Path,
        access: Access,
        limits: TimeLimits,
        retries: Retries | None = None,
        *,
        reached: bool = False,
    ) -> None:
        self._program = program
        self._access = access
        self._limits = limits
        self._retries = retries
        self._reached = reached

    def with_access(self, access: Access) -> Crane:
        """Return the same for another way to the registry."""
        return Crane(self._program, access, self._limits, self._retries, reached=self._reached)

    def without_retries(self) -> Crane:
        """Return the same, which asks once: for who has another way."""
        return Crane(self._program, self._access, self._limits, reached=self._reached)

    def manifest(self, digest: Digest | None, request: Request, *, cancellation: Cancellation | None = None) -> bytes:
        """Return the exact bytes of a manifest or index: the one with a digest, or what the reference itself names.

        Raises:
            UnsafeError: It is larger than any real one.
            MicropodError: As `crane_errors` translates.
        """
        try:
            return self._run(["manifest", self._target(digest)], request, cancellation, media_types.MANIFEST_LIMIT)
        except run.OutputLimitError as error:
            from micropod_img.oci import too_large  # noqa: PLC0415 - the only thing here that would import pydantic

            raise too_large(request.ref) from error

    def digest(self, request: Request, *, cancellation: Cancellation | None = None) -> Digest:
        """Return the digest that the reference names now; the registry is asked for nothing else."""
        answer = self._run(["digest", self._target()], request, cancellation, 1024).decode("utf-8", "replace").strip()
        try:
            return parse_digest(answer)
        except UsageError as error:
            raise IntegrityError(
                f"{request.endpoint} names {answer!r} as the digest of {request.ref}",
                code="malformed-digest",
                stage=request.stage,
                endpoint=request.endpoint,
            ) from error

    def blob(self, digest: Digest, request: Request, *, limit: int, cancellation: Cancellation | None = None) -> bytes:
        """Return a small blob, such as a configuration, that the registry itself has.

        Raises:
            OutputLimitError: It is larger than ``limit`` bytes.
            MicropodError: As `crane_errors` translates.
        """
        return self._run(["blob", self._target(digest)], request, cancellation, limit)

    def start_pull(self, digest: Digest, layout: Path, *, keep_open: Sequence[int], verbose: bool = False) -> run.Child:
        """Start to fetch an image by digest into an OCI layout.

        Args:
            digest: The image or index.
            layout: A private directory; blobs that are in it already are not fetched.
            keep_open: Descriptors that the child holds until it ends.
            verbose: Whether it tells how long a registry asks to wait.
        """
        verbosely = ["--verbose"] if verbose else []
        return self._start(["pull", *verbosely, "--format=oci", self._target(digest), str(layout)], keep_open)

    def start_blob(self, digest: Digest, file: int, *, keep_open: Sequence[int], verbose: bool = False) -> run.Child:
        """Start to fetch a blob that the registry itself has; crane checks its digest, and fails where it is wrong.

        Args:
            digest: The blob.
            file: Descriptor of an open file that gets its bytes as they come.
            keep_open: Descriptors that the child holds until it ends.
            verbose: Whether it tells how long a registry asks to wait.
        """
        verbosely = ["--verbose"] if verbose else []
        return self._start(["blob", *verbosely, self._target(digest)], keep_open, stdout_to=file)

    def start_push(self, layout: Path, *, keep_open: Sequence[int], verbose: bool = False) -> run.Child:
        """Start to push the one image, or index, of an OCI layout to what the reference names.

        Args:
            layout: A private directory.
            keep_open: Descriptors that the child holds until it ends.
            verbose: Whether it tells how long a registry asks to wait.
        """
        verbosely = ["--verbose"] if verbose else []
        return self._start(["push", *verbosely, str(layout), self._target()], keep_open)

    def tags(self, request: Request, *, cancellation: Cancellation | None = None) -> tuple[str, ...]:
        """Return the tags of the repository, as the registry lists them.

        Raises:
            MicropodError: As `crane_errors` translates.
        """
        endpoint = self._access.endpoint
        answer = self._run(["ls", f"{endpoint.host}/{endpoint.repository}"], request, cancellation, _TAGS_LIMIT)
        return tuple(answer.decode("utf-8", "replace").splitlines())

    def _target(self, digest: Digest | None = None) -> str:
        endpoint = self._access.endpoint
        target = endpoint.reference_text if digest is None else endpoint.text_for(digest)
        if len(endpoint.repository) < _SHORTEST_REPOSITORY:
            raise _beyond_crane(target, "crane knows no repository names of one character")
        if "@" in target and "@sha256:" not in target:
            raise _beyond_crane(target, "crane knows sha256 digests only")
        return target

    def _argv(self, words: Sequence[str]) -> list[str]:
        command, *arguments = words
        insecure = ["--insecure"] if self._access.endpoint.insecure else []
        return [str(self._program), command, *insecure, *arguments]

    def _start(self, words: Sequence[str], keep_open: Sequence[int], *, stdout_to: int | None = None) -> run.Child:
        try:
            return run.Child(self._argv(words), env=self._access.environment, pass_fds=keep_open, stdout_to=stdout_to)
        except run.ProgramNotFoundError as error:
            raise self._broken() from error

    def _run(self, words: Sequence[str], request: Request, cancellation: Cancellation | None, limit: int) -> bytes:
        def ask(attempt: int) -> bytes:
            command, *rest = words
            # Only the debug log tells how long a registry asks to wait.
            verbosely = ["--verbose"] if attempt > 1 else []
            return self._run_once([command, *verbosely, *rest], request, cancellation, limit)

        answer = ask(1) if self._retries is None else self._retries.run(ask, reached=lambda: self._reached)
        self._reached = True
        return answer

    def _run_once(self, words: Sequence[str], request: Request, cancellation: Cancellation | None, limit: int) -> bytes:
        try:
            completed = run.run(
                self._argv(words),
                env=self._access.environment,
                timeout=self._limits.for_request(),
                stdout_limit=limit,
                cancellation=cancellation,
            )
        except run.ProgramNotFoundError as error:
            raise self._broken() from error
        except run.ChildTimeoutError as error:
            raise timed_out(request, self._limits) from error
        if completed.status != 0:
            raise self.failure(completed, request)
        return completed.stdout

    def failure(self, completed: run.Completed, request: Request) -> MicropodError:
        """Return the error that a crane which failed means, with the registry under the name that the user knows."""
        from micropod_img.pull import crane_log  # noqa: PLC0415 - most calls succeed

        words = crane_log.without_traffic(completed.stderr).replace(self._access.endpoint.host, request.endpoint)
        error = translate(replace(completed, stderr=words), request)
        if isinstance(error, RateLimitedError):
            error.retry_after = crane_log.retry_after(completed.stderr)
            if error.retry_after is not None:
                when = _duration(error.retry_after)
                error.hint = f"try again in {when}; or log in for a higher limit, or use a mirror"
        if error.code == "unauthorized" and self._access.credential_source and request.endpoint != DOCKER_HUB:
            shown = f"the credential that it was shown ({self._access.credential_source})"
            error.message = f"{request.endpoint} does not accept {shown} {request.purpose}"
        return error

    def _broken(self) -> ToolError:
        return ToolError(f"{self._program} cannot be run", code="tool-broken", hint="install micropod-img again")


def timed_out(request: Request, limits: TimeLimits) -> MicropodError:
    """Return the error for a registry that did not answer in time; it says which of the two limits that was."""
    all_of_it = limits.timeout is not None and limits.expired()
    seconds = limits.timeout if all_of_it else limits.stall_timeout
    return UnavailableError(
        f"{request.endpoint} did not answer within {seconds:g} s ({request.ref})",
        code="timeout",
        hint=f"try again, or allow more with {'--timeout' if all_of_it else '--stall-timeout'}",
        stage=request.stage,
        endpoint=request.endpoint,
        retryable=True,
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 2 * 60 else f"{minutes} min" if minutes < 2 * 60 else f"{minutes / 60:.0f} h"


def _beyond_crane(target: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{target} is nothing that crane can ask for: {why}", code="reference-unsupported", stage="resolve"
    )
