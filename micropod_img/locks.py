"""Advisory locks (flock(2)) between processes: who waits for one is told for whom, and since when that has it.

Nobody queues: a wait looks again and again, so that it can be called off, and no holder stays long (the index) or does
anything but what the one who waits needs too (a blob, a snapshot).
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from micropod_img.fsutil import insist, process_that_locks, same_file, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.cancellation import Cancellation

SAY_AFTER_SECONDS = 2.0
"""Seconds that a wait may take before anybody is told of it."""

_SHORTEST_POLL_SECONDS = 0.002
_LONGEST_POLL_SECONDS = 0.05
_LONGEST_OWNER = 400
_SOMEBODY = "another process"


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait for a lock.

    Attributes:
        subject: What is locked, in a user's words.
        holder: Who has it.
        since: When that took it, in UTC; None where that is not known.
    """

    subject: str
    holder: str
    since: datetime | None


WaitObserver: TypeAlias = Callable[[Wait], None]
"""Is told once of a wait that takes long."""


class LockTimeoutError(Exception):
    """A lock was not to be had in time; ``args[0]`` is its holder."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a lock is waited for.

    Attributes:
        subject: What is locked, in a user's words.
        on_wait: Is told when the wait has taken `SAY_AFTER_SECONDS`.
        on_busy: Called at once when the lock is not to be had.
        timeout: Seconds to wait at most; None to wait for as long as it takes.
        cancellation: Ends the wait.
    """

    subject: str
    on_wait: WaitObserver | None = None
    on_busy: Callable[[], None] | None = None
    timeout: float | None = None
    cancellation: Cancellation | None = None


def signed(purpose: str) -> str:
    """Return what this process writes into the file of a lock that it holds, for those who wait."""
    return f"process {os.getpid()} ({purpose})"


@contextlib.contextmanager
def locked(path: Path, patience: Patience, *, owner: str) -> Iterator[int]:
    """Hold an exclusive lock on a file that exists only while it is locked or waited for.

    The file is removed by its holder before the lock goes, so that locks named after content do not pile up; who waited
    for a removed file notices that it holds a name that is gone, and opens the new one.

    Args:
        path: The lock file.
        patience: How it is waited for.
        owner: One line about the holder, for those who wait; see `signed`.

    Yields:
        The locked file's descriptor.

    Raises:
        LockTimeoutError: The wait took longer than it may.
    """
    descriptor = -1
    try:
        descriptor = _acquire(path, _Waiting(patience))
        with contextlib.suppress(OSError):  # the lock holds without it, and a full disk must not keep anyone from rmi
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, owner.encode("utf-8", "replace"), 0)
        yield descriptor
    finally:
        if descriptor >= 0:
            _remove(path, descriptor)


@contextlib.contextmanager
def locked_directory(path: Path, patience: Patience, *, shared: bool = False) -> Iterator[int]:
    """Hold a lock on a directory itself, which stays where it is.

    Args:
        path: The directory.
        patience: How it is waited for.
        shared: Whether others may hold it too, if they share it.

    Yields:
        The locked directory's descriptor; its name may be another directory's by now.

    Raises:
        LockTimeoutError: The wait took longer than it may.
        OSError: There is no such directory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        waiting = _Waiting(patience)
        while not try_lock(descriptor, shared=shared):
            waiting.a_while(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(path: Path, waiting: _Waiting) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while not try_lock(descriptor):
                if not same_file(descriptor, path):
                    break
                waiting.a_while(descriptor)
            else:
                if same_file(descriptor, path):
                    return descriptor
        except BaseException:
            if try_lock(descriptor) and same_file(descriptor, path):  # maybe it was made here
                _remove(path, descriptor)
            else:
                os.close(descriptor)
            raise
        os.close(descriptor)


def _remove(path: Path, descriptor: int) -> None:
    def unlink() -> None:
        with contextlib.suppress(OSError):  # a lock file that stays behind locks nothing
            path.unlink()

    try:
        insist(unlink)
    finally:
        os.close(descriptor)


class _Waiting:
    """One wait: says once for whom, and ends in time."""

    def __init__(self, patience: Patience) -> None:
        began = time.monotonic()
        self._patience = patience
        self._on_busy = patience.on_busy
        self._on_wait = patience.on_wait
        self._say_after = began + SAY_AFTER_SECONDS
        self._until = None if patience.timeout is None else began + patience.timeout
        self._poll = _SHORTEST_POLL_SECONDS

    def a_while(self, descriptor: int) -> None:
        """Sleep a little, of the lock on an open file."""
        if self._on_busy is not None:
            on_busy, self._on_busy = self._on_busy, None
            on_busy()
        now = time.monotonic()
        if self._on_wait is not None and now >= self._say_after:
            on_wait, self._on_wait = self._on_wait, None
            holder, since = _holder(descriptor)
            on_wait(Wait(self._patience.subject, holder, since))
        if self._until is not None and now >= self._until:
            raise LockTimeoutError(_holder(descriptor)[0])
        if self._patience.cancellation is not None:
            self._patience.cancellation.sleep(self._poll)
        else:
            time.sleep(self._poll)
        self._poll = min(2 * self._poll, _LONGEST_POLL_SECONDS)


def _holder(descriptor: int) -> tuple[str, datetime | None]:
    """Return who holds the lock on an open file, and since when.

    A file says both, unless the one who wrote it is not the one who holds it: a killed process can leave its name, and
    the next holder may find the disk full. The kernel knows better, as far as it shows processes of other containers.
    """
    status = os.fstat(descriptor)
    said = b"" if stat.S_ISDIR(status.st_mode) else os.pread(descriptor, _LONGEST_OWNER, 0)
    text = said.decode("utf-8", "replace")
    process = process_that_locks(descriptor)
    if text and (process is None or text.startswith(f"process {process} ")):
        return text, datetime.fromtimestamp(status.st_mtime, UTC)
    return _SOMEBODY if process is None else f"process {process}{_program(process)}", None


def _program(process: int) -> str:
    with contextlib.suppress(OSError):
        name = Path("/proc", str(process), "comm").read_text(encoding="utf-8", errors="replace").strip()
        return f" ({name})"
    return ""
