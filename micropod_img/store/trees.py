"""Remove, and measure, trees that an image or a container made: deeper than Python can go, and maybe with mounts."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from micropod_img.errors import DiskError

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.run import Completed

_PATH = "/usr/bin:/bin"
_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; no link is followed, no other filesystem entered.

    Raises:
        DiskError: Something of it could not be removed.
    """
    completed = _run("rm", "-rf", "--one-file-system", "--", str(path))
    if completed is None or completed.status != 0:
        detail = "rm is missing" if completed is None else completed.stderr
        raise DiskError(f"{path} could not be removed", code="not-removed", detail=detail)


def remove_tree_if_possible(path: Path) -> None:
    """Remove a directory as far as that goes: of what work in progress left nothing is ever used."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if path.exists():  # deeper than Python's stack, or than it may have directories open
        with contextlib.suppress(DiskError):
            remove_tree(path)


def disk_usage(path: Path) -> int:
    """Return the bytes on disk that a tree takes; a file with several names in it counts once."""
    completed = _run("du", "-sx", "--block-size=1", "--", str(path))
    size = b"" if completed is None else completed.stdout.partition(b"\t")[0]
    return int(size) if size.isdigit() else 0


def _run(name: str, *arguments: str) -> Completed | None:
    from micropod_img import run  # noqa: PLC0415 - a pull of what is here starts no program, and need not load this

    program = shutil.which(name, path=_PATH)
    return None if program is None else run.run([program, *arguments], env=_ENVIRONMENT)
