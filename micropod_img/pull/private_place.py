"""A private directory for a crane that works for no store: its configuration may hold a credential.

A process that is killed outright leaves it, and `tempfile` would leave it for ever. So all of one user's are in one
directory, each locked by its owner, and whoever makes another one removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img import fsutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


@contextlib.contextmanager
def private_place() -> Iterator[Path]:
    """Make a directory that is this user's alone (0700), under ``$TMPDIR``; it is gone after the block.

    Raises:
        DiskError: It cannot be made.
    """
    with contextlib.ExitStack() as held:
        with fsutil.disk_errors(tempfile.gettempdir()):
            place = _locked_place(held) or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="micropod-")))
        yield place


def _locked_place(held: contextlib.ExitStack) -> Path | None:
    """Make a directory beside those of this user's other processes; None where somebody else has taken the name."""
    base = Path(tempfile.gettempdir(), f"micropod-{os.geteuid()}")
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    try:
        descriptor = os.open(base, _FLAGS)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # for as long as it takes to look, and to make one
        _sweep(base)
        place = Path(tempfile.mkdtemp(dir=base))
        held.callback(shutil.rmtree, place, ignore_errors=True)
        lock = os.open(place, _FLAGS)
        held.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return place
    finally:
        os.close(descriptor)


def _sweep(base: Path) -> None:
    for path in base.iterdir():
        with contextlib.suppress(OSError):
            descriptor = os.open(path, _FLAGS)
            try:
                if fsutil.try_lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
