from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cli.command_line import PROGRAM, environment, process
from tests.rootfs.unpacking import as_root
from tests.support.ordinary_user import UID, ordinary_user
from tests.support.processes import missing, run
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import pytest

    from tests.cli.command_line import CommandLine


@as_root
def test_selftest_lists_its_steps_and_what_took_how_long(crane: Path) -> None:
    assert crane
    said = process("selftest")
    assert (said.status, said.err) == (0, "")
    *steps, last = said.out.splitlines()
    for step in steps:
        assert re.fullmatch(r"ok      \S.*  \d+\.\d+ s", step)
    done = {line[8:].rpartition("  ")[0].strip() for line in steps}
    assert {"pull it", "list it", "inspect it", "tag it", "unpack it", "remove it"} <= done
    assert {"remove the pod", "mount the image, and unmount it"} <= done
    assert re.fullmatch(rf"micropod-img works here: {len(steps)} steps in \d+\.\d+ s", last)


def test_selftest_touches_no_store(crane: Path, store_root: Path) -> None:
    assert crane
    said = process("--root", store_root, "selftest", "-q")
    assert (said.status, said.out) == (0, "")
    assert list(store_root.iterdir()) == []


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


def test_an_ordinary_users_selftest_goes_through_pods_too(crane: Path) -> None:
    assert crane
    with ordinary_user() as user:
        ended = user.run(*PROGRAM, "selftest", "--json")
        assert ended.returncode == 0, ended.stdout
        steps = {step["name"]: step["skipped"] for step in json.loads(ended.stdout)["data"]["steps"]}
        assert steps["make a pod with a bundle (overlay-userxattr)"] is None
        assert set(steps.values()) == {None}
        # Nothing holds the namespace of a store that is gone; what was killed may take a moment to go.
        wait_until(lambda: UID not in map(owner, Path("/proc").glob("[0-9]*")))


def owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except FileNotFoundError:
        return None


def test_what_cannot_be_done_here_is_skipped_and_no_failure(crane: Path) -> None:
    assert crane
    script = "echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all " + " ".join(PROGRAM)
    with ordinary_user() as user:
        inside = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-ec"]
        ended = user.run(*inside, f"{script} selftest --json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    skipped = {step["name"]: step["skipped"] for step in json.loads(ended.stdout)["data"]["steps"] if step["skipped"]}
    assert skipped == {
        "unpack it": "umoci cannot be started in a root of its own",
        "see what pods can be made with": "user namespaces are not allowed here, and without one only root can mount",
    }


@as_root
def test_where_nothing_can_be_mounted_pods_are_copies(crane: Path) -> None:
    assert crane
    without = ["setpriv", "--bounding-set=-sys_admin"]
    ended = run(*without, *PROGRAM, "selftest", "--json", environment=environment())
    assert ended.returncode == 0, ended.stdout
    steps = {step["name"]: step["skipped"] for step in json.loads(ended.stdout)["data"]["steps"]}
    assert steps["make a pod with a bundle (copy)"] is None
    assert "nothing can be mounted here" in (steps["mount the image, and unmount it"] or "")
