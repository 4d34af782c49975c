"""Remove trees that an image made: deeper than Python can go, with a mount in them that must not be followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img import run
from micropod_img.errors import DiskError
from micropod_img.rootfs.programs import find_program

if TYPE_CHECKING:
    from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; no link is followed, no other filesystem entered.

    Raises:
        DiskError: Something of it could not be removed.
        ToolError: rm is missing.
    """
    argv = [find_program("rm", package="coreutils"), "-rf", "--one-file-system", "--", str(path)]
    completed = run.run(argv, env={"LC_ALL": "C.UTF-8"})
    if completed.status != 0:
        raise DiskError(f"{path} could not be removed", code="not-removed", detail=completed.stderr)


def disk_usage(path: Path) -> int:
    """Return the bytes on disk that a tree takes; a file with several names in it counts once.

    Raises:
        ToolError: du is missing.
    """
    argv = [find_program("du", package="coreutils"), "-sx", "--block-size=1", "--", str(path)]
    size = run.run(argv, env={"LC_ALL": "C.UTF-8"}).stdout.partition(b"\t")[0]
    return int(size) if size.isdigit() else 0
