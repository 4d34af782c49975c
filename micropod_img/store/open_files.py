"""Whether some process is at work on a file, as far as /proc shows it (proc_pid_fd(5))."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

_PROC = Path("/proc")


def is_open(path: Path) -> bool:
    """Whether a process has a file or directory open; those of other users' processes are seen by root only."""
    try:
        wanted = path.lstat()
    except FileNotFoundError:
        return False
    for process in _PROC.iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended, or is somebody else's
                for descriptor in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        # The name first: to ask a file for its status may take as long as its server likes.
                        if descriptor.readlink().name == path.name and _is(descriptor.stat(), wanted):
                            return True
    return False


def _is(status: os.stat_result, other: os.stat_result) -> bool:
    return (status.st_dev, status.st_ino) == (other.st_dev, other.st_ino)
