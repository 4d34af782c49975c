"""Start programs and see them through: the only module that imports subprocess.

A child gets an environment that was built for it (nothing is inherited), stdin from /dev/null unless bytes are given, a
session of its own (so that it has no terminal to ask, Ctrl-C there reaches us alone, and we end it in order), and dies
with the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from micropod_img.cancellation import Cancellation

_CHUNK = 1 << 16
_STDERR_LIMIT = 1 << 18
_POLL_SECONDS = 0.05
_LINGER_SECONDS = 0.5
SETPRIV = "/usr/bin/setpriv"


class ProgramNotFoundError(Exception):
    """The program could not be started; ``args[0]`` is its path, the cause says why."""


class ChildTimeoutError(Exception):
    """The child was ended because its time was over; ``args[0]`` is the number of seconds it had."""


class OutputLimitError(Exception):
    """The child was ended because it wrote more than it may; ``args[0]`` is the limit in bytes."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A child that has ended: exit status (negative: the signal that ended it) and what it wrote."""

    status: int
    stdout: bytes
    stderr: str


class _Drain:
    """Reads one pipe of a child to its end in a thread, keeping its last ``limit`` bytes: last words say most."""

    def __init__(self, stream: IO[bytes], limit: int, *, refuse_more: bool) -> None:
        self.content = bytearray()
        self.overflowed = threading.Event()
        self._stream = stream
        self._limit = limit
        self._refuse_more = refuse_more
        self._thread = threading.Thread(target=self._read, name="drain", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        # The thread closes what it reads: a descendant that escaped may hold the other end longer than we care for it.
        with self._stream:
            while chunk := self._stream.read(_CHUNK):
                self.content += chunk
                if len(self.content) > self._limit:
                    if self._refuse_more:
                        self.content = self.content[: self._limit]
                        self.overflowed.set()
                        return
                    # A new one, as others may be reading the old.
                    self.content = self.content[-self._limit :]

    def join(self, timeout: float) -> bool:
        """Wait for the end of the pipe; return whether it was reached."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


class Child:
    """A running program, ended and reaped at the end of the ``with`` block at the latest.

    Args:
        argv: Absolute path of the program, and its arguments.
        env: The whole environment of the child.
        stdin: Bytes to feed it; without them its stdin is /dev/null.
        cwd: Its working directory.
        pass_fds: File descriptors that it keeps; a lock's descriptor here keeps the lock until the child is gone too.
        stdout_limit: Bytes of stdout after which it is ended.
        stdout_to: An open file that gets its stdout, all of it; nothing of that is kept here then.

    Raises:
        ProgramNotFoundError: The program could not be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: bytes | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        stdout_limit: int = 1 << 20,
        stdout_to: int | None = None,
    ) -> None:
        # A missing or unrunnable program must fail here and not inside setpriv.
        if not (os.path.isfile(argv[0]) and os.access(argv[0], os.X_OK)):  # noqa: PTH113 - argv holds strings
            raise ProgramNotFoundError(argv[0])
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [*_dying_with_parent(), *argv],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE if stdout_to is None else stdout_to,
                stderr=subprocess.PIPE,
                pass_fds=pass_fds,
                start_new_session=True,
                bufsize=0,  # a buffer would be waited for until it is full, and is locked while a thread reads
            )
        except OSError as error:
            raise ProgramNotFoundError(argv[0]) from error
        self._stdout_limit = stdout_limit
        self._exit_seen: float | None = None
        try:
            self._attach(self._process, stdin)
        except BaseException:  # nobody has a `Child` to close yet
            self.kill()
            with self._process:  # reaps it and closes the pipes
                raise

    def _attach(self, process: subprocess.Popen[bytes], stdin: bytes | None) -> None:
        if process.stderr is None:
            raise AssertionError("it is a pipe")
        self._stdout = None
        if process.stdout is not None:
            self._stdout = _Drain(process.stdout, self._stdout_limit, refuse_more=True)
        self._stderr = _Drain(process.stderr, _STDERR_LIMIT, refuse_more=False)
        if stdin is not None and process.stdin is not None:
            # In a thread, as a child that never reads must not keep us from seeing that its time is over.
            threading.Thread(target=_feed, args=(process.stdin, stdin), name="feed", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child if it still runs, and reap it; its pipes are closed when nobody can write to them any more."""
        self.kill()
        self._process.wait()
        self._join_pipes(_LINGER_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait at most so many seconds for the child to end.

        Returns:
            Whether it has ended; `completed` then tells how.

        Raises:
            OutputLimitError: It wrote more than it may.
        """
        # Pipes at their end announce the exit at once; Popen.wait with a timeout polls with growing delays.
        ended = self._join_pipes(seconds)
        if self._stdout is not None and self._stdout.overflowed.is_set():
            self.kill()
            raise OutputLimitError(self._stdout_limit)
        if not ended:
            return self._exited_long_ago()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:  # it closed its pipes and goes on
            return False
        return True

    def completed(self) -> Completed:
        """Return how the child ended and what it wrote; only after `wait` returned true."""
        return Completed(
            status=self._process.wait(),
            stdout=b"" if self._stdout is None else bytes(self._stdout.content),
            stderr=self._stderr.content.decode("utf-8", "replace"),
        )

    def written_bytes(self) -> int:
        """Return how many bytes the child has written up to now, to the network or elsewhere (proc(5), ``wchar``)."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self._process.pid}/io").read_text("ascii")
            return int(fields.partition("wchar: ")[2].split()[0])
        return 0

    def stderr_so_far(self) -> str:
        """Return what the child has written to stderr up to now: a server says there where it listens."""
        return self._stderr.content.decode("utf-8", "replace")

    def kill(self) -> None:
        """End the child and everything that it started."""
        if self._process.returncode is None:
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                self._has_exited()  # raises if it was reaped: the process id may be anybody's by now
                os.killpg(self._process.pid, signal.SIGKILL)

    def _join_pipes(self, seconds: float) -> bool:
        """Wait for the end of each pipe; return whether it was reached."""
        return (self._stdout is None or self._stdout.join(seconds)) and self._stderr.join(seconds)

    def _has_exited(self) -> bool:
        """Whether the child has ended; it is not reaped, so that its process id and its group stay its own.

        Raises:
            ChildProcessError: The program that uses this library reaped it.
        """
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _exited_long_ago(self) -> bool:
        """Whether the child has ended, though a descendant that outlives it holds its pipes, maybe for ever.

        What the child itself wrote was in the pipes before it ended and is read by then.
        """
        if self._exit_seen is None:
            with contextlib.suppress(ChildProcessError):
                if not self._has_exited():
                    return False
            self._exit_seen = time.monotonic()
        return time.monotonic() > self._exit_seen + _LINGER_SECONDS


def _feed(pipe: IO[bytes], content: bytes) -> None:
    # A child that does not want to read says by its exit status what that means.
    with contextlib.suppress(BrokenPipeError), pipe:
        rest = memoryview(content)
        while rest:
            rest = rest[pipe.write(rest) :]


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: bytes | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    timeout: float | None = None,
    stdout_limit: int = 1 << 20,
    cancellation: Cancellation | None = None,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: Absolute path of the program, and its arguments.
        env: The whole environment of the child.
        stdin: Bytes to feed it; without them its stdin is /dev/null.
        cwd: Its working directory.
        pass_fds: File descriptors that it keeps.
        timeout: Seconds after which it is ended.
        stdout_limit: Bytes of stdout after which it is ended.
        cancellation: Ends it when it is cancelled.

    Returns:
        Its exit status and output; a status that is not 0 is the caller's to judge.

    Raises:
        ProgramNotFoundError: The program could not be started.
        ChildTimeoutError: Its time was over.
        OutputLimitError: It wrote more than it may.
        CancelledError: The work was called off.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with Child(argv, env=env, stdin=stdin, cwd=cwd, pass_fds=pass_fds, stdout_limit=stdout_limit) as child:
        while not child.wait(_POLL_SECONDS):
            if cancellation is not None:
                cancellation.check()
            if deadline is not None and time.monotonic() > deadline:
                raise ChildTimeoutError(timeout)
        return child.completed()


def replace_process(argv: Sequence[str], *, env: Mapping[str, str], keep_open: Sequence[int] = ()) -> None:
    """Become another program, whose output and exit status are then the user's to see as they are.

    Args:
        argv: Absolute path of the program, and its arguments.
        env: Its whole environment.
        keep_open: File descriptors that it keeps, besides those of standard input, output and errors.

    Raises:
        ProgramNotFoundError: The program could not be started.
    """
    # What Python ignores, the other program would ignore too: `yes | head` would complain.
    ignored = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    for descriptor in keep_open:
        os.set_inheritable(descriptor, True)
    try:
        os.execve(argv[0], list(argv), dict(env))  # noqa: S606 - no shell is wanted here
    except OSError as error:
        for number, before in ignored.items():
            signal.signal(number, before)
        raise ProgramNotFoundError(argv[0]) from error


def _dying_with_parent() -> tuple[str, ...]:
    """Words before the command that let the kernel end it when this process is killed outright (prctl(2), PDEATHSIG).

    A preexec_fn that calls prctl is not safe in a threaded process (subprocess documentation), setpriv is. Where
    util-linux is missing a killed parent leaves its child to end by itself; its staging stays locked until then.
    """
    return (SETPRIV, "--pdeathsig", "KILL", "--") if os.access(SETPRIV, os.X_OK) else ()
