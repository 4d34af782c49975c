"""The command line under test: in this process, which is quick, and as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import micropod_img
from micropod_img.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

PROGRAM = (sys.executable, "-m", "micropod_img")


@dataclass(frozen=True)
class Said:
    """How a command ended and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Json]:
        """The one JSON document that stdout must be."""
        parsed: Json = json.loads(self.out)
        assert isinstance(parsed, dict)
        return parsed


class CommandLine:
    """Calls the program in this process, on a store of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Said:
        """Run a command on the store."""
        return self.bare(f"--root={self.root}", *arguments)

    def bare(self, *arguments: str) -> Said:
        """Run a command line just as it is."""
        self._capsys.readouterr()
        status = main(arguments)
        out, err = self._capsys.readouterr()
        return Said(status, out, err)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a process of its own, in which the package is found as it is here."""
    source = str(Path(micropod_img.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": source, "TERM": "xterm", **(extra or {})}


def process(*arguments: str | Path, extra: Mapping[str, str] | None = None, timeout: float = 60) -> Said:
    """Run the program as a process of its own, without a terminal."""
    ended = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=environment(extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Said(ended.returncode, ended.stdout, ended.stderr)
