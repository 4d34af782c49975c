from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import ServerDidNotStartError, missing, require_program, run, server

READY = re.compile(r"ready (\d+)")


def runs(pid: str) -> bool:
    """Tell whether a process is there and is more than a zombie that nobody has reaped."""
    status = Path("/proc", pid, "stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_server_is_gone_after_its_block(tmp_path: Path) -> None:
    with server(["sh", "-c", "echo ready $$; exec sleep 60"], ready=READY, log=tmp_path / "log") as match:
        assert runs(match[1])
    assert not runs(match[1])


def test_a_server_dies_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, re, pathlib
from tests.support.processes import server
argv = ["sh", "-c", "echo ready $$; exec sleep 60"]
with server(argv, ready=re.compile(r"ready (\\d+)"), log=pathlib.Path({str(tmp_path / "log")!r})) as match:
    print(match[1], flush=True)
    os.kill(os.getpid(), 9)
"""
    pid = run(sys.executable, "-c", script, environment={"PYTHONPATH": os.pathsep.join(sys.path)}).stdout.strip()
    assert pid
    deadline = time.monotonic() + 5
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(pid)


def test_a_server_that_does_not_start_shows_what_it_wrote(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerDidNotStartError, match="no such luck"),
        server(["sh", "-c", "echo no such luck"], ready=READY, log=tmp_path / "log"),
    ):
        pytest.fail("it is not ready")


def test_a_program_that_is_there_is_found() -> None:
    assert os.access(require_program("sh", package="dash"), os.X_OK)


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [
        ({}, pytest.skip.Exception),
        ({"MICROPOD_REQUIRE_REAL": "0", "CI": ""}, pytest.skip.Exception),
        ({"MICROPOD_REQUIRE_REAL": "1"}, pytest.fail.Exception),
        ({"CI": "true"}, pytest.fail.Exception),
    ],
)
def test_a_missing_program_skips_here_and_fails_in_ci(
    environment: dict[str, str], outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MICROPOD_REQUIRE_REAL", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(outcome, match="apt-get install some-package"):
        require_program("no-such-program", package="some-package")
    with pytest.raises(outcome, match="the reason"):
        missing("the reason")
