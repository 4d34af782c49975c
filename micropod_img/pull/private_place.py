"""A private directory for a crane that works for no store: its configuration may hold a credential.

A process that is killed outright leaves it, and `tempfile` would leave it for ever. So all of one user's are in one
directory, each locked by its owner, and whoever makes another one removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE_SECONDS = 2.0
_POLL_SECONDS = 0.01
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


@contextlib.contextmanager
def private_place() -> Iterator[Path]:
    """Make a directory that is this user's alone (0700), under ``$TMPDIR``; it is gone after the block.

    Raises:
        DiskError: It cannot be made.
    """
    parent = _temporary_directory()
    with contextlib.ExitStack() as held:
        with fsutil.disk_errors(parent):
            place = _locked_place(parent, held) or Path(
                held.enter_context(tempfile.TemporaryDirectory(prefix="micropod-", dir=parent))
            )
        yield place


def _temporary_directory() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise DiskError(
            "no directory for temporary files can be written to",
            code="no-temporary-directory",
            hint="free some space in /tmp, or let TMPDIR name another directory",
            detail=str(error),
        ) from error


def _locked_place(parent: Path, held: contextlib.ExitStack) -> Path | None:
    """Make a directory beside those of this user's other processes; None where that cannot be."""
    base = parent / f"micropod-{os.geteuid()}"
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
        # Held for as long as it takes to look, and to make one; longer only by a process that is stopped just then.
        if not _try_to_lock(descriptor, _PATIENCE_SECONDS):
            return None
        _sweep(base)
        place = Path(tempfile.mkdtemp(dir=base))
        held.callback(shutil.rmtree, place, ignore_errors=True)
        lock = os.open(place, _FLAGS)
        held.callback(os.close, lock)
        fsutil.try_lock(lock)  # it is ours alone, and new
        return place
    finally:
        os.close(descriptor)


def _try_to_lock(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not fsutil.try_lock(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _sweep(base: Path) -> None:
    for path in base.iterdir():
        with contextlib.suppress(OSError):
            descriptor = os.open(path, _FLAGS)
            try:
                if fsutil.try_lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
