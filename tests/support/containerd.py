"""Debian's containerd with a root of the test's own, to see what it makes of an image."""

from __future__ import annotations

import contextlib
import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.processes import require_program, run, server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONFIGURATION = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{directory}/socket"
"""


@dataclass(frozen=True)
class Containerd:
    """A containerd that runs, and ``ctr`` to talk to it."""

    directory: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextlib.contextmanager
    def files_of(self, ref: str) -> Iterator[Path]:
        """Pull an image from a registry on loopback, and show its files until the block ends.

        Raises:
            AssertionError: Containerd refuses it; the message has its words.
        """
        self._run("images", "pull", "--plain-http", ref)
        target = self.directory / f"mounted-{next(self._numbers)}"  # its name is also that of the snapshot
        target.mkdir()
        self._run("images", "mount", ref, str(target))
        try:
            yield target
        finally:
            run("umount", target).check_returncode()

    def _run(self, *argv: str) -> None:
        program = require_program("ctr", package="containerd")
        done = run(program, "--address", self.directory / "socket", *argv)
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def containerd(directory: Path) -> Iterator[Containerd]:
    """Run a containerd until the block ends."""
    program = require_program("containerd", package="containerd")
    directory.mkdir()
    (directory / "config.toml").write_text(_CONFIGURATION.format(directory=directory))
    argv = [program, "--config", str(directory / "config.toml")]
    with server(argv, ready=re.compile("containerd successfully booted"), log=directory / "log"):
        yield Containerd(directory)
