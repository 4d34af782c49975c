"""Where the pinned Go programs are, and that they are the very files that tools.lock names.

A program is looked for in an explicitly given folder, then in the package. ``$PATH`` is never asked: another crane
behaves differently, and whoever can write to a folder on it could replace it.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img.errors import ToolError
from micropod_img.reports import ToolVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

TOOLS_DIRECTORY_VARIABLE = "MICROPOD_TOOLS_DIR"

TOOLS: Final = ("crane", "umoci")

_PACKAGE = Path(__file__).parent
_PACKAGED_TOOLS = _PACKAGE / "_tools"
_LOCKS = (_PACKAGE / "tools.lock", _PACKAGE.parent / "tools.lock")  # in a wheel, in a checkout
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_REINSTALL = "install micropod-img again (pip install --force-reinstall micropod-img; in a checkout: ./bin/quickstart)"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that was found and is what tools.lock pins.

    Args:
        name: ``crane`` or ``umoci``.
        version: Its release, such as ``0.21.9``.
        path: The absolute path of the file to start.
    """

    name: str
    version: str
    path: Path


@dataclass(frozen=True, slots=True)
class PinnedTool:
    """What tools.lock says of one program.

    Args:
        name: ``crane`` or ``umoci``.
        version: Its release.
        sha256: Platform (``linux-amd64``) → hex digest of the file.
    """

    name: str
    version: str
    sha256: Mapping[str, str]


def load_lock(path: Path | None = None) -> dict[str, PinnedTool]:
    """Read which programs are pinned.

    Args:
        path: A tools.lock; the package's own unless given.

    Returns:
        Name → what is pinned.

    Raises:
        ToolError: It is missing or cannot be understood.
    """
    import tomllib  # noqa: PLC0415 - commands that start no tool do not pay for it

    candidates = _LOCKS if path is None else (path,)
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        looked_at = ", ".join(map(str, candidates))
        raise ToolError(f"tools.lock is missing; looked for {looked_at}", code="tool-lock", hint=_REINSTALL)
    try:
        tables = tomllib.loads(found.read_text(encoding="utf-8"))["tools"]
        return {name: PinnedTool(name, table["version"], table["sha256"]) for name, table in tables.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ToolError(f"{found} cannot be read: {error}", code="tool-lock", hint=_REINSTALL) from error


def find_tool(name: str, *, directory: Path | None = None) -> Tool:
    """Find a pinned program and check every byte of it; once per process for each file.

    Args:
        name: ``crane`` or ``umoci``.
        directory: A folder that is looked at first; ``$MICROPOD_TOOLS_DIR`` unless given.

    Returns:
        The program, ready to be started.

    Raises:
        ToolError: It is nowhere, not executable, another file than the one pinned, or this machine has none pinned.
    """
    pinned = _pinned_tools().get(name)
    if pinned is None:
        raise ToolError(f"tools.lock pins no {name}", code="tool-lock", hint=_REINSTALL)
    expected = _for_this_machine(pinned)
    candidates = [folder / name for folder in _search_path(directory)]
    path = next((candidate for candidate in candidates if os.path.lexists(candidate)), None)
    if path is None:
        raise ToolError(
            f"{name} {pinned.version} is missing; looked for {', '.join(map(str, candidates))}",
            code="tool-missing",
            hint=f"{_REINSTALL}, or set {TOOLS_DIRECTORY_VARIABLE} to a folder that has it",
        )
    try:
        status = path.stat()
        actual = _sha256_of_file(path, status.st_ino, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ToolError(f"{path} cannot be read: {error.strerror}", code="tool-unreadable", hint=_REINSTALL) from error
    if actual != expected:
        raise ToolError(
            f"{path} is not the {name} {pinned.version} that is pinned: its sha256 is {actual}, expected {expected}",
            code="tool-altered",
            hint=_REINSTALL
            if path.is_relative_to(_PACKAGED_TOOLS)
            else f"put the pinned build there, or unset {TOOLS_DIRECTORY_VARIABLE} to use the packaged one",
        )
    if not os.access(path, os.X_OK):
        raise ToolError(
            f"{path} may not be executed",
            code="tool-not-executable",
            hint=f"chmod 0755 it; on a file system mounted noexec, set {TOOLS_DIRECTORY_VARIABLE} to a copy elsewhere",
        )
    return Tool(name, pinned.version, path)


def tool_versions(directory: Path | None = None) -> tuple[ToolVersion, ...]:
    """Return the pinned programs, their bytes checked.

    Args:
        directory: As for `find_tool`.

    Raises:
        ToolError: As `find_tool`.
    """
    found = [find_tool(name, directory=directory) for name in TOOLS]
    return tuple(ToolVersion(tool.name, tool.version, str(tool.path)) for tool in found)


class PendingTool:
    """A program that is being found and checked in a thread, while its caller does something else.

    Args:
        name: ``crane`` or ``umoci``.
        directory: As for `find_tool`.
    """

    def __init__(self, name: str, *, directory: Path | None = None) -> None:
        import threading  # noqa: PLC0415 - only those who ask for the thread pay for it

        self._name = name
        self._directory = directory
        self._outcome: Tool | Exception | None = None
        # A daemon, so that an error elsewhere ends the process without waiting for a check that nobody needs any more.
        self._thread = threading.Thread(target=self._find, name=f"check-{name}", daemon=True)
        self._thread.start()

    def result(self) -> Tool:
        """Wait for the check to end.

        Returns:
            The program, ready to be started.

        Raises:
            ToolError: As `find_tool`.
        """
        self._thread.join()
        match self._outcome:
            case Tool() as tool:
                return tool
            case Exception() as error:
                raise error
            case None:
                raise ToolError(f"the check of {self._name} ended without a result")

    def _find(self) -> None:
        try:
            self._outcome = find_tool(self._name, directory=self._directory)
        except Exception as error:  # noqa: BLE001 - handed to whoever asks for the result
            self._outcome = error


def _search_path(directory: Path | None) -> list[Path]:
    """Return the folders to look at; absolute, since children are started elsewhere."""
    explicit = directory or os.environ.get(TOOLS_DIRECTORY_VARIABLE)
    return [*([Path(explicit).absolute()] if explicit else []), _PACKAGED_TOOLS]


def _for_this_machine(pinned: PinnedTool) -> str:
    """Return the sha256 that is pinned for this machine."""
    system = os.uname()
    platform = f"{system.sysname.lower()}-{_ARCHITECTURES.get(system.machine, system.machine)}"
    if platform not in pinned.sha256:
        raise ToolError(
            f"{pinned.name} is pinned for {', '.join(sorted(pinned.sha256))}, and this machine is {platform}",
            code="tool-platform",
        )
    return pinned.sha256[platform]


@functools.cache
def _pinned_tools() -> dict[str, PinnedTool]:
    return load_lock()


@functools.cache
def _sha256_of_file(path: Path, inode: int, size: int, modified_ns: int) -> str:  # noqa: ARG001 - they are the cache's key
    import hashlib  # noqa: PLC0415 - loads OpenSSL, which commands that start no tool do not need

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
