"""Real programs for tests: run one to its end, or run a server for as long as a block lasts."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Mapping, Sequence

_POLL_SECONDS = 0.01
_READY_SECONDS = 20.0
PROMPTLY = 10.0
"""Seconds in which a process that is told to end has ended, however busy the machine is."""


class ServerDidNotStartError(Exception):
    """A server ended, or never said that it is ready; the message holds what it wrote."""


def run(
    *argv: str | Path, stdin: str = "", environment: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its status is the caller's to judge."""
    return subprocess.run(
        [*map(str, argv)],
        input=stdin,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def require_program(name: str, *, package: str) -> str:
    """Find a program that a Debian package brings; without it the test skips, or fails where nothing may be missing."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        missing(f"{name} is missing: apt-get install {package}")
    return found


def missing(reason: str) -> NoReturn:
    """End the test for want of a real component: a skip on a developer's machine, a failure in CI."""
    if os.environ.get("MICROPOD_REQUIRE_REAL") == "1" or os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def server(
    argv: Sequence[str | Path], *, ready: re.Pattern[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[re.Match[str]]:
    """Run a server until the block ends.

    Args:
        argv: Program and arguments.
        ready: What it writes once it listens.
        log: Where all that it writes goes.
        environment: Set for it, besides what this process has.

    Yields:
        The match of ``ready``.
    """
    # A test run that is killed outright must not leave servers behind.
    setpriv = shutil.which("setpriv")
    dying_with_us = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*dying_with_us, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield _wait_until_ready(process, ready, log)
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], ready: re.Pattern[str], log: Path) -> re.Match[str]:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        written = log.read_text()
        if match := ready.search(written):
            return match
        if ended:
            break
        time.sleep(_POLL_SECONDS)
    raise ServerDidNotStartError(f"{process.args!r} does not listen; it wrote:\n{log.read_text()}")


def soon(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; return whether it came to that promptly."""
    deadline = time.monotonic() + PROMPTLY
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(_POLL_SECONDS)
    return False


def processes_that_mention(text: str) -> list[str]:
    """Return the ids of all other processes that have a text in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.name != str(os.getpid()):
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in words:
                found.append(entry.name)
    return found
