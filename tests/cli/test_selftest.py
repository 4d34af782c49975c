from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.cli.command_line import PROGRAM, environment, process
from tests.support.processes import missing, run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.cli.command_line import CommandLine


def test_selftest_lists_its_steps_and_what_took_how_long(micropod: CommandLine, crane: Path) -> None:
    assert crane
    said = micropod("selftest")
    assert (said.status, said.err) == (0, "")
    *steps, last = said.out.splitlines()
    for step in steps:
        assert re.fullmatch(r"ok      \S.*  \d+\.\d+ s", step)
    assert {line.split()[1] for line in steps} >= {"check", "start", "make", "pull", "list", "inspect", "tag", "remove"}
    assert re.fullmatch(rf"micropod-img works here: {len(steps)} steps in \d+\.\d+ s", last)


def test_selftest_touches_no_store(micropod: CommandLine, crane: Path) -> None:
    assert crane
    assert micropod("selftest", "-q").out == ""
    assert list(micropod.root.iterdir()) == []


def test_selftest_says_which_step_failed_and_why(
    micropod: CommandLine, crane: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crane
    (tmp_path / "umoci").write_text("#!/bin/sh\n")
    monkeypatch.setenv("MICROPOD_TOOLS_DIR", str(tmp_path))
    said = micropod("selftest")
    assert said.status == 11
    assert said.out == "failed  check crane and umoci\n"
    assert "umoci" in said.err
    document = micropod("selftest", "--json").document
    assert document["data"] == {"steps": [], "failed": "check crane and umoci"}


def test_selftest_needs_no_network_but_loopback(crane: Path) -> None:
    assert crane
    isolated = ["unshare", "--user", "--map-root-user", "--net", "/bin/sh", "-c"]
    if run(*isolated, "ip link set lo up", timeout=10).returncode != 0:
        missing("no network namespace can be made here")
    script = f"ip link set lo up && exec {' '.join(PROGRAM)} selftest"
    ended = run(*isolated, script, environment=environment())
    assert ended.returncode == 0, ended.stderr


def test_selftest_says_that_loopback_is_down(crane: Path) -> None:
    assert crane
    isolated = ["unshare", "--user", "--map-root-user", "--net"]
    if run(*isolated, "true", timeout=10).returncode != 0:
        missing("no network namespace can be made here")
    ended = run(*isolated, *PROGRAM, "selftest", environment=environment())
    assert ended.returncode == 11
    assert "is the interface lo up?" in ended.stderr


def test_selftest_takes_no_proxy_for_loopback(crane: Path) -> None:
    assert crane
    nowhere = {
        "HTTP_PROXY": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
    }
    assert process("selftest", extra=nowhere).status == 0
