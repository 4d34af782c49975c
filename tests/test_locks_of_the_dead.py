from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLDS = """
import os, subprocess, sys
from micropod_img.fsutil import try_lock
descriptor = os.open(sys.argv[1], os.O_RDONLY)
assert try_lock(descriptor)
child = subprocess.Popen(["/bin/sleep", sys.argv[2]], pass_fds=[descriptor])
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def holder(path: Path, child_seconds: float) -> tuple[subprocess.Popen[str], int]:
    """Start a process that locks a directory, and a child that inherits the lock."""
    argv = [sys.executable, "-c", HOLDS, str(path), str(child_seconds)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_lock_that_nobody_has_is_taken(opened: int) -> None:
    assert fsutil.try_lock_of_dead(opened)


def test_a_lock_of_somebody_alive_is_not_waited_for(opened: int, tmp_path: Path) -> None:
    process, _ = holder(tmp_path, 0)
    with process:
        began = time.monotonic()
        assert not fsutil.try_lock_of_dead(opened, patience=60)
        assert time.monotonic() - began < 30
        process.kill()


def test_a_lock_of_somebody_dead_is_taken_when_their_dying_child_lets_go(opened: int, tmp_path: Path) -> None:
    process, _ = holder(tmp_path, 0.5)
    with process:
        process.kill()
        process.wait()
        assert not fsutil.try_lock(opened)
        assert fsutil.try_lock_of_dead(opened, patience=60)


def test_a_child_that_goes_on_after_its_parent_is_not_waited_for_in_vain(opened: int, tmp_path: Path) -> None:
    process, child = holder(tmp_path, 60)
    with process:
        process.kill()
    assert not fsutil.try_lock_of_dead(opened, patience=0.1)
    os.kill(child, 9)
