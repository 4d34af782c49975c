"""The command line, run in a fork of this process: all is imported already, and it can be made to end at any step."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pkgutil
import select
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import micropod_img
from micropod_img.cli.main import main
from micropod_img.rootfs import syscalls
from tests.soak.steps import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HANGS_AFTER = 60.0
_ORPHANS_END_WITHIN = 5.0
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Person:
    """Who runs a command: root, or another user; and what is in their environment besides what is in this one."""

    uid: int | None
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status; negative: the signal that ended it; None: it never ended, and was ended.
        said: What it wrote.
        steps: The steps that it came to, in order.
    """

    status: int | None
    said: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Blow:
    """What befalls a command, and when.

    Attributes:
        at: Before which of its steps, counted from 0.
        strike: What happens there.
        delay: Seconds after that step at which it is killed instead, while it goes on; 0: before the step.
    """

    at: int
    strike: Callable[[], None]
    delay: float = 0.0


def become_workshop(neighbour: int | None) -> None:
    """Make this process one that forks commands: its mounts are its own, orphans of commands become its children.

    Args:
        neighbour: A process whose mounts it shall see, besides its own.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if neighbour is not None:
        with open(f"/proc/{neighbour}/ns/mnt") as namespace:  # noqa: PTH123 - no path is made of it
            _libc.setns(namespace.fileno(), syscalls.CLONE_NEWNS)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    for module in pkgutil.walk_packages(micropod_img.__path__, "micropod_img."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()  # what is here already need not be looked at, and so copied, in each fork


def run_command(
    arguments: Sequence[str],
    person: Person,
    *,
    stdin: str = "",
    blow: Blow | None = None,
    observed: bool = False,
) -> Ended:
    """Run a command to its end.

    Args:
        arguments: What stands behind the program's name.
        person: Who runs it.
        stdin: What it is told.
        blow: What befalls it.
        observed: Whether its steps are to be told when nothing befalls it.
    """
    told, written, steps = (os.memfd_create(name) for name in ("told", "written", "steps"))
    try:
        os.pwrite(told, stdin.encode(), 0)
        child = os.fork()
        if child == 0:
            counter = _Counter(steps, blow) if observed or blow is not None else None
            _be_command(arguments, person, (told, written, written), counter)
        status = _status_of(child)
        return Ended(status, _content(written), tuple(_content(steps).splitlines()))
    finally:
        for descriptor in (told, written, steps):
            os.close(descriptor)


def orphans_left(*, but: int | None = None) -> int:
    """Wait for what ended commands have started, and return how many of them went on and had to be ended.

    Args:
        but: One that may go on.
    """
    deadline = time.monotonic() + _ORPHANS_END_WITHIN
    left = 0
    with contextlib.suppress(ChildProcessError):
        while orphans := _children() - {but}:
            if os.waitpid(-1, os.WNOHANG)[0] != 0:
                continue
            if time.monotonic() < deadline:
                time.sleep(0.001)
                continue
            left += 1
            os.kill(orphans.pop() or 0, signal.SIGKILL)
            os.wait()
    return left


def _be_command(arguments: Sequence[str], person: Person, standard: Sequence[int], counter: _Counter | None) -> None:
    status = 1
    try:
        os.environ.update(person.environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        if person.uid is not None:
            os.setgroups([])
            os.setresgid(person.uid, person.uid, person.uid)
            os.setresuid(person.uid, person.uid, person.uid)
            _libc.prctl(_PR_SET_DUMPABLE, 1)  # as a program that this user has started: newuidmap looks at it
        for place, descriptor in enumerate(standard):
            os.dup2(descriptor, place)
        sys.stdin = os.fdopen(0, closefd=False)  # that of a process of a pool is another one
        if counter is not None:
            observe(counter)
        status = main(arguments)
        threading._shutdown()  # type: ignore[attr-defined] # what Python does at its end: it waits for threads
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - this is another process, which must not go on as its parent
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


class _Counter:
    """Writes down each step and strikes at one of them."""

    def __init__(self, descriptor: int, blow: Blow | None) -> None:
        self._descriptor = descriptor
        self._blow = blow
        self._count = 0
        self._lock = threading.RLock()
        self._striking = False

    def __call__(self, step: str) -> None:
        with self._lock:
            if self._striking:
                return
            line = step.replace("\n", "\\n").encode("utf-8", "replace")
            os.write(self._descriptor, line + b"\n")
            blow, position = self._blow, self._count
            self._count += 1
            if blow is None or position != blow.at:
                return
            strike = blow.strike
            if blow.delay:
                strike = partial(_kill_later, blow.delay)
            self._striking = True  # what strikes may be a step itself
            try:
                strike()
            finally:
                self._striking = False


def _kill_later(delay: float) -> None:
    """Have this process killed; by another one, as some commands may have no thread of ours."""
    victim = os.getpid()
    if os.fork() == 0:
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))  # it must hold no lock
        time.sleep(delay)
        if os.getppid() == victim:
            os.kill(victim, signal.SIGKILL)
        os._exit(0)


def _status_of(child: int) -> int | None:
    descriptor = os.pidfd_open(child)
    try:
        hangs = not select.select([descriptor], [], [], _HANGS_AFTER)[0]
    finally:
        os.close(descriptor)
    if hangs:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if hangs else status


def _children() -> set[int | None]:
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:  # noqa: PTH123 - no path is made of it
        return set(map(int, stream.read().split()))


def _content(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")
