"""The uncompressed bytes of a layer that the gate reads, kept for umoci, which then need not inflate it once more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LARGEST: Final = 1 << 30
"""Bytes of a copy; what is larger umoci inflates by itself."""

_FREE_FOR_EACH: Final = 4  # so that copies never take the room that the files need


class LayerCopy:
    """A file that takes what it is given, and is given up as soon as that is too much or the disk takes no more.

    Args:
        path: A name that nobody has yet, in a private directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._descriptor: int | None = None
        status = os.statvfs(path.parent)
        if status.f_bavail * status.f_frsize >= _FREE_FOR_EACH * LARGEST:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, chunk: bytes) -> None:
        """Take more bytes, or give up."""
        if self._descriptor is None:
            return
        self._size += len(chunk)
        try:
            complete = self._size <= LARGEST and os.write(self._descriptor, chunk) == len(chunk)
        except OSError:  # it is not needed; what is will say that the disk is full
            complete = False
        if not complete:
            self.give_up()

    def finish(self) -> Path | None:
        """Return the file with all that was given; None where there is none."""
        if self._descriptor is None or not self._size:
            self.give_up()
            return None
        os.close(self._descriptor)
        self._descriptor = None
        return self._path

    def give_up(self) -> None:
        """Remove the file, if it is not finished."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._path.unlink()
