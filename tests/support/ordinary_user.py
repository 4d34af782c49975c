"""An ordinary user, who exists only in a mount namespace of the test: the machine's /etc is not touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import missing, require_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

UID = 1_000_000_000 + os.getpid()
"""Another one for each process that tests, since its processes are ended by their user."""
NAME = "ordinary"
FIRST_SUBORDINATE_ID = 2_000_000_000 - 65536
CHECKOUT = Path(__file__).parents[2]

_FILES = ("passwd", "group", "subuid", "subgid")
# Arguments: the directory of account files, then pairs: a directory that is closed to others, what they need of it.
_MOUNT = """
base=$1; shift
for name in passwd group subuid subgid; do mount --bind "$base/$name" "/etc/$name"; done
while [ $# -gt 0 ]; do
    mkdir -p "$base/needed"
    mount --bind "$2" "$base/needed"
    mount -t tmpfs -o mode=0755 tmpfs "$1"
    mkdir -p "$2"
    mount --move "$base/needed" "$2"
    shift 2
done
echo ready
exec cat
"""


@dataclass(frozen=True)
class OrdinaryUser:
    """Somebody without rights; ``home`` is theirs, on the filesystem of the tests' other files.

    Attributes:
        home: An empty directory.
        namespace: The process in whose mount namespace they are known.
    """

    home: Path
    namespace: int

    def run(
        self, *argv: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this user to its end."""
        return subprocess.run(
            self.command(*argv, cwd=cwd),
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *argv: str | Path) -> subprocess.Popen[str]:
        """Start a program as this user."""
        return subprocess.Popen(
            self.command(*argv),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *argv: str | Path, cwd: Path | None = None) -> list[str]:
        """Return the command line that runs a program as this user."""
        identity = [f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        become = ["setpriv", *identity, "--", "env", "-C", str(cwd or self.home)]
        return ["nsenter", f"--target={self.namespace}", "--mount", "--", *become, *map(str, argv)]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what a login would give, and where this package is."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            **(more or {}),
        }

    def python(self, script: str, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a Python script as this user, with this package to import."""
        return self.run(sys.executable, "-c", script, *argv)


@contextlib.contextmanager
def ordinary_user(*, subordinate_ids: bool = True) -> Iterator[OrdinaryUser]:
    """Let there be a user until the block ends, and end what they left running.

    Args:
        subordinate_ids: Whether they have 65,536 of them.
    """
    if os.geteuid() != 0:
        missing("only root can act as another user")
    require_program("newuidmap", package="uidmap")
    # pytest's own directories are for its user only.
    base = Path(tempfile.mkdtemp(prefix="micropod-user-"))
    base.chmod(0o755)
    try:
        _write_accounts(base, subordinate_ids=subordinate_ids)
        home = base / "home"
        home.mkdir()
        os.chown(home, UID, UID)
        holder = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _MOUNT, "sh", str(base), *_hidden()]
        with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                missing("a mount namespace of one's own is not allowed here, or /etc/subuid is missing")
            user = OrdinaryUser(home, process.pid)
            try:
                if user.run(sys.executable, "-c", "import micropod_img").returncode != 0:
                    missing(f"{sys.executable} or {CHECKOUT} cannot be read by other users")
                yield user
            finally:
                _end_processes()
    finally:
        shutil.rmtree(base)


def _hidden() -> Iterator[str]:
    """Yield what of the interpreter and of the checkout lies in a directory that is closed to others, and that."""
    seen: set[Path] = set()
    for needed in {Path(sys.base_prefix), Path(sys.prefix), CHECKOUT}:
        closed = next((parent for parent in reversed(needed.parents) if not parent.stat().st_mode & 0o001), None)
        if closed is not None and closed not in seen:
            seen.add(closed)
            yield from (str(closed), str(needed))


def _write_accounts(base: Path, *, subordinate_ids: bool) -> None:
    added = {"passwd": f"{NAME}:x:{UID}:{UID}::{base}/home:/bin/sh\n", "group": f"{NAME}:x:{UID}:\n"}
    for name in _FILES:
        before = Path("/etc", name).read_text() if name in added else ""
        ids = f"{NAME}:{FIRST_SUBORDINATE_ID}:65536\n" if subordinate_ids else ""
        (base / name).write_text(before + added.get(name, ids))
        (base / name).chmod(0o644)


def _end_processes() -> None:
    for directory in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if directory.name.isdecimal() and directory.stat().st_uid == UID:
                os.kill(int(directory.name), signal.SIGKILL)
