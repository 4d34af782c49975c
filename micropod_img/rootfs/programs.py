"""Programs of the system that root filesystems are made with, from the usual places and never from the user's PATH."""

from __future__ import annotations

import shutil

from micropod_img.errors import ToolError

PROGRAM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str, *, package: str) -> str:
    """Return the path of a program.

    Args:
        name: Its name.
        package: What brings it, for the hint.

    Raises:
        ToolError: It is missing.
    """
    found = shutil.which(name, path=PROGRAM_PATH)
    if found is None:
        raise ToolError(
            f"{name} is missing; looked for it in {PROGRAM_PATH}", code="tool-missing", hint=f"install {package}"
        )
    return found
