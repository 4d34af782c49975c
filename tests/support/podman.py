"""Debian's podman with a storage of the test's own, to see what it makes of an image."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tests.support.processes import require_program, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


def members(value: Json) -> dict[str, Json]:
    assert isinstance(value, dict)
    return value


def texts(value: Json) -> list[str]:
    assert isinstance(value, list)
    return list(map(str, value))


@dataclass(frozen=True)
class Podman:
    """Podman as root, whose images, mounts and locks are in one directory.

    Attributes:
        root: Its images.
        state: Its mounts and locks; a path of at most 50 characters, which pytest's are not.
        driver: Of containers-storage: ``overlay`` or ``vfs``.
    """

    root: Path
    state: Path
    driver: str

    def argv(self) -> list[str]:
        program = require_program("podman", package="podman")
        return [program, "--root", str(self.root), "--runroot", str(self.state), "--storage-driver", self.driver]

    @contextlib.contextmanager
    def files_of(self, ref: str) -> Iterator[Path]:
        """Pull an image from a registry on loopback, and show its files until the block ends.

        Raises:
            AssertionError: Podman refuses it; the message has its words.
        """
        self._pull(ref)
        mounted = Path(self._run("image", "mount", ref).strip())
        try:
            yield mounted
        finally:
            self._run("image", "umount", ref)

    def runtime_configuration(self, ref: str, arguments: Sequence[str]) -> dict[str, Json] | None:
        """Pull an image, make a container of it, and return what its runtime would be told; None if podman refuses."""
        self._pull(ref)
        limits = ["--network=none", "--cgroups=disabled", "--ulimit=host", "--pull=never"]
        container = self._run("create", *limits, ref, *arguments).strip()
        try:
            run(*self.argv(), "--runtime=/bin/false", "init", container)  # it is not to run, and need not be able to
            made = self.root / f"{self.driver}-containers" / container / "userdata/config.json"
            parsed: Json = json.loads(made.read_bytes()) if made.exists() else None
        finally:
            self._run("rm", "--force", container)
        return None if parsed is None else members(parsed)

    def _pull(self, ref: str) -> None:
        no_credentials = self.state / "auth.json"  # it wants the file that the environment names, and there is none
        no_credentials.write_text("{}")
        self._run("pull", "--quiet", "--tls-verify=false", f"--authfile={no_credentials}", ref)

    def _run(self, *argv: str) -> str:
        done = run(*self.argv(), *argv)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def podman(root: Path, driver: str) -> Iterator[Podman]:
    """Let there be a podman, with images below ``root``, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="podman-") as state:
        try:
            yield Podman(root, Path(state), driver)
        finally:
            # It keeps a mount of its own storage, in which pytest could remove nothing.
            run("umount", "--lazy", root / driver)
