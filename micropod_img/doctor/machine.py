"""The machine: its kernel, its clock, and the programs that are started."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from micropod_img import run
from micropod_img.diagnosis import Finding, fine, problem, warning
from micropod_img.errors import ToolError
from micropod_img.tools import TOOLS, find_tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_EARLIEST: Final = datetime(2025, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)


def kernel() -> Finding:
    """Say what kernel this is."""
    system = os.uname()
    return fine("kernel", f"{system.sysname} {system.release} on {system.machine}", release=system.release)


def child_ender() -> Finding:
    """Look for setpriv, which lets children end when we are killed."""
    if os.access(run.SETPRIV, os.X_OK):
        return fine("setpriv", f"{run.SETPRIV} ends children when a command is killed")
    return warning(
        "setpriv",
        f"{run.SETPRIV} is missing: when a command is killed, its crane goes on until it is done",
        "install util-linux",
    )


def clock(now: datetime | None = None) -> Finding:
    """Judge whether the clock may be right.

    Args:
        now: The time; the machine's if None.
    """
    now = now or datetime.now(UTC)
    shown = now.strftime("%Y-%m-%d %H:%M UTC")
    if _EARLIEST <= now < _LATEST:
        return fine("clock", shown)
    return warning(
        "clock",
        f"the clock says {shown}: certificates of registries seem not to be valid yet, or not any more",
        "set it, such as with timedatectl set-ntp true",
    )


def tools(directory: Path | None) -> Iterator[Finding]:
    """Check every byte of crane and umoci.

    Args:
        directory: As for `micropod_img.tools.find_tool`.
    """
    for name in TOOLS:
        try:
            found = find_tool(name, directory=directory)
        except ToolError as error:
            yield problem(name, error, pinned=False)
        else:
            message = f"{found.version}, to the byte the pinned one ({found.path})"
            yield fine(name, message, pinned=True, version=found.version, path=str(found.path))
