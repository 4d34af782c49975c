"""Space that is set aside, so that on a full disk what frees some can still be done.

Removing an image begins with a new index, which takes a few blocks and inodes before the first blob goes. The reserve
is some files of them: they are let go when the disk is full, and made again once there is room.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from micropod_img.fsutil import free_space

if TYPE_CHECKING:
    from pathlib import Path

_FILES: Final = 8
_FILE_BYTES: Final = 128 << 10
_AMPLE_BYTES: Final = 2 * _FILES * _FILE_BYTES


class Reserve:
    """The reserve of one store.

    Args:
        directory: Where it is.
    """

    def __init__(self, directory: Path) -> None:
        self._files = [directory / str(number) for number in range(_FILES)]
        self._directory = directory
        self._is_needed = False

    def fill(self) -> None:
        """Set it aside, unless it is, or the disk is so full that somebody may need what was let go of."""
        if self._is_needed or self._files[-1].exists():  # that one is made last
            return
        with contextlib.suppress(OSError):
            if free_space(self._directory.parent).size < _AMPLE_BYTES:
                return
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for path in self._files:
                _make(path)

    def release(self) -> bool:
        """Let it go until `restore`; return whether there was anything to let go of."""
        released = False
        for path in reversed(self._files):
            with contextlib.suppress(OSError):
                path.unlink()
                released = True
        self._is_needed = released
        if released:
            os.sync()  # btrfs gives back what was freed when it has written all that is pending
        return released

    def restore(self) -> None:
        """Set it aside again, now that it was of use."""
        self._is_needed = False
        self.fill()


def _make(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _FILE_BYTES)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
