"""Python scripts in a mount namespace of their own, where a test may mount what it likes."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import require_program, run

if TYPE_CHECKING:
    import subprocess

_CHECKOUT = Path(__file__).parent.parent.parent


def run_with_mounts(script: str, *arguments: str | Path, mounts: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a Python script after mounts that nobody else sees.

    Args:
        script: Has ``sys.argv[1:]``, and may import the package and the tests' support.
        arguments: Of the script.
        mounts: Words of mount(8) for each, split as a shell does; quote paths.
    """
    unshare = [require_program("unshare", package="util-linux"), "--mount"]
    if os.geteuid() != 0:
        unshare.append("--map-root-user")
    if run(*unshare, "mount", "-t", "tmpfs", "none", "/mnt").returncode != 0:
        pytest.skip("this user may not mount anything, not even in a namespace of its own")
    steps = "".join(f"mount {each} && " for each in mounts)
    python = shlex.join([sys.executable, "-c", script, *map(str, arguments)])
    return run(*unshare, "sh", "-c", f"{steps} exec {python}", environment={"PYTHONPATH": str(_CHECKOUT)})
