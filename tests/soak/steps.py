"""The failpoints: every step by which the program changes anything, and a call before each of them.

Nothing of it is in the program, so that it costs nothing there and no effect can go around it. Most of what Python does
to the world it announces before it does it (PEP 578), wherever it is called from: renames, links, unlinks, modes, files
opened for writing, flock, starts of programs. What has no such event is wrapped here: fsync, the system calls that the
program makes itself, and the life of its children. What is after one step is before the next.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from micropod_img import run
from micropod_img.rootfs import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

AUDITED: Final = (
    "fcntl.flock",
    "os.chmod",
    "os.chown",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.killpg",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.removexattr",
    "os.rename",
    "os.rmdir",
    "os.setxattr",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "subprocess.Popen",
)
"""Audit events of Python (its documentation, "Audit events table"); ``open`` is one as well, where it may write."""

SYSTEM_CALLS: Final = ("mount", "umount2", "unshare", "syncfs", "syscall")
"""What `micropod_img.rootfs.syscalls` calls in the C library."""

_NUMBERED = {429: "move_mount", 432: "fsmount"}
"""By number; fsopen(2) and fsconfig(2) change nothing that outlives the process."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LONGEST = 200


def observe(before_step: Callable[[str], None]) -> None:
    """Have a function called before each step of this process, for as long as it lives.

    Args:
        before_step: Is told what comes next, in one line. What it raises, the step seems to raise.
    """
    sys.addaudithook(_Audit(before_step))
    _wrap_durability(before_step)
    _wrap_system_calls(before_step)
    _wrap_children(before_step)


class _Audit:
    def __init__(self, before_step: Callable[[str], None]) -> None:
        self._before_step = before_step

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in AUDITED or (event == "open" and _may_write(arguments)):
            self._before_step(_line(event, *arguments))


def _may_write(arguments: tuple[object, ...]) -> bool:
    path, _, flags = arguments
    return isinstance(flags, int) and bool(flags & _WRITING) and not str(path).startswith("/dev/")


def _line(event: str, *arguments: object) -> str:
    shown = [
        os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in arguments if word not in (None, -1)
    ]
    return f"{event} {' '.join(shown)}"[:_LONGEST]


def _wrap_durability(before_step: Callable[[str], None]) -> None:
    for name in ("fsync", "fdatasync", "pwrite"):
        setattr(os, name, _preceded(getattr(os, name), lambda *given, name=name: before_step(_line(name, given[0]))))


def _wrap_system_calls(before_step: Callable[[str], None]) -> None:
    library = syscalls._libc

    class Library:
        def __getattr__(self, name: str) -> object:
            found = getattr(library, name)
            if name not in SYSTEM_CALLS:
                return found

            def before(*given: object) -> None:
                if name != "syscall" or given[0] in _NUMBERED:
                    before_step(_line(*_named(name, given)))

            return _preceded(found, before)

    syscalls._libc = Library()  # type: ignore[assignment] # it has what is used of a CDLL


def _named(name: str, arguments: tuple[object, ...]) -> tuple[str, ...]:
    if name == "syscall" and isinstance(arguments[0], int):
        name, arguments = _NUMBERED[arguments[0]], arguments[1:]
    return (name, *(os.fsdecode(one) for one in arguments if isinstance(one, bytes)))


def _wrap_children(before_step: Callable[[str], None]) -> None:
    started, ended = run.Child._attach, run.Child.completed

    def attach(child: run.Child, process: object, stdin: bytes | None) -> None:
        before_step("child has started")
        started(child, process, stdin)  # type: ignore[arg-type] # as it came

    def completed(child: run.Child) -> run.Completed:
        before_step("child has ended")
        return ended(child)

    setattr(run.Child, "_attach", attach)  # noqa: B010 - mypy knows no other way to replace a method
    setattr(run.Child, "completed", completed)  # noqa: B010 - the same


def _preceded(function: Callable[..., object], before: Callable[..., None]) -> Callable[..., object]:
    def wrapped(*arguments: object, **named: object) -> object:
        before(*arguments)
        return function(*arguments, **named)

    return wrapped
