"""Small filesystems, mounted for a test: of real kinds, so that they are full, or read-only, as those of users are."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import require_program, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
KINDS = ("tmpfs", "ext4", "xfs", "btrfs")

_MADE_BY = {
    "ext4": (("mkfs.ext4", "-q", "-m", "0", "-N", "400"), "e2fsprogs", 40 * MIB),
    "xfs": (("mkfs.xfs", "-q"), "xfsprogs", 300 * MIB),
    "btrfs": (("mkfs.btrfs", "-q"), "btrfs-progs", 160 * MIB),
}
_PIECE = 256 << 10


@dataclass(frozen=True)
class SmallFilesystem:
    """A mounted filesystem; ``path`` is its root."""

    path: Path
    kind: str

    def fill(self) -> None:
        """Write until there is not a byte left."""
        with (self.path / "filler").open("wb", buffering=0) as filler:
            for size in (_PIECE, 4096, 1):
                with contextlib.suppress(OSError):
                    while filler.write(os.urandom(size)):
                        pass

    def take_inodes(self) -> None:
        """Make files until there can be no more."""
        directory = self.path / "inodes"
        directory.mkdir()
        number = 0
        with contextlib.suppress(OSError):
            while True:
                (directory / str(number)).touch()
                number += 1

    def remount(self, options: str) -> None:
        done = run("mount", "-o", f"remount,{options}", self.path)
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def mounted(kind: str, directory: Path) -> Iterator[SmallFilesystem]:
    """Mount a filesystem that is gone when the block ends; the test skips where that cannot be done.

    Args:
        kind: One of `KINDS`.
        directory: Existing and empty; gets the image and the mount point.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    place = directory / "disk"
    place.mkdir()
    if kind == "tmpfs":
        words = ["-t", "tmpfs", "-o", f"size={24 * MIB},nr_inodes=400,mode=0700", "none"]
    else:
        program, package, size = _MADE_BY[kind]
        image = directory / f"{kind}.img"
        with image.open("wb") as file:
            file.truncate(size)
        made = run(require_program(program[0], package=package), *program[1:], image)
        assert made.returncode == 0, made.stderr
        words = ["-o", "loop", str(image)]
    done = run("mount", *words, place)
    if done.returncode != 0:
        pytest.skip(f"this machine cannot mount {kind}: {done.stderr}")
    try:
        yield SmallFilesystem(place, kind)
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    for _ in range(50):
        if run("umount", place).returncode == 0:
            return
        time.sleep(0.1)
    run("umount", "--lazy", place)
