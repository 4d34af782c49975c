"""`verify` as a command: what it says, in three forms, and its exit status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from micropod_img.store.store import Store
from tests.store import damage
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.layouts import pulled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command_line import CommandLine

TOP = random_layer(3000)
IMAGE = image([layer({"etc/motd": b"base"}), TOP])


@pytest.fixture
def root(store_root: Path) -> Path:
    """A store with one image."""
    pulled(Store(store_root), "app:1", IMAGE)
    return store_root


def test_a_store_without_a_problem_is_said_to_be_well(root: Path, micropod: CommandLine) -> None:
    said = micropod("verify")
    assert said.status == 0
    assert said.out.startswith("all is well: 4 blobs (")
    assert "reading 4 blobs" in said.err
    quiet = micropod("verify", "-q")
    assert (quiet.out, quiet.err) == ("", "")
    document = micropod("verify", "--json").document
    assert (document["ok"], document["error"]) == (True, None)
    assert document["data"] == {
        "problems": [],
        "repaired": [],
        "checked": {
            "images": 1,
            "blobs": 4,
            "blob_bytes": sum(path.stat().st_size for path in (root / "images/blobs/sha256").iterdir()),
            "snapshots": 0,
            "pods": 0,
        },
        "unlisted": [],
        "leftovers": 0,
    }


def test_a_problem_is_said_with_its_file_and_whom_it_hurts(root: Path, micropod: CommandLine) -> None:
    damage.flipped(TOP)(root)
    path = damage.blob(root, TOP)
    said = micropod("verify")
    assert said.status == 7
    message = f"blob {TOP.digest} has other bytes than its name says"
    assert said.out.splitlines()[:3] == [
        f"serious   {message}",
        f"          {path}",
        "          hurts image docker.io/library/app:1",
    ]
    assert f"1 problem: {message}\n" in said.err
    assert micropod("verify", "-q").out == f"corrupt-blob {path}\n"
    document = json.loads(micropod("verify", "--json").out)
    assert document["data"]["problems"] == [
        {
            "code": "corrupt-blob",
            "severity": "serious",
            "message": message,
            "path": str(path),
            "digest": TOP.digest,
            "images": ["docker.io/library/app:1"],
            "pods": [],
        }
    ]
    assert (document["ok"], document["error"]["code"], document["error"]["exit_status"]) == (False, "corrupt-blob", 7)


def test_a_store_that_is_not_there_has_no_problem(micropod: CommandLine, tmp_path: Path) -> None:
    assert micropod.bare(f"--root={tmp_path}/nowhere", "verify").status == 0
    assert not (tmp_path / "nowhere").exists()


def test_a_torn_version_file_is_a_problem_for_all_commands_and_verify_says_so(
    root: Path, micropod: CommandLine
) -> None:
    (root / "version").write_bytes(b"")
    refused = micropod("images")
    assert refused.status == 7
    assert "verify --repair" in refused.err
    said = micropod("verify", "-q")
    assert (said.status, said.out) == (7, f"corrupt-version {root}/version\n")


def test_names_of_files_cannot_act_on_a_terminal(root: Path, micropod: CommandLine) -> None:
    (root / "\x1b[2J\nserious").touch()
    said = micropod("verify")
    assert said.status == 7
    assert "\x1b" not in said.out + said.err
    assert "\nserious" not in said.out


def test_progress_is_told_as_json_lines(root: Path, micropod: CommandLine) -> None:
    lines = [json.loads(line) for line in micropod("verify", "--progress=json").err.splitlines()]
    whole = sum(path.stat().st_size for path in (root / "images/blobs/sha256").iterdir())
    assert lines[0] == {"schema": 1, "event": "verify-started", "blobs": 4, "size": whole}
    assert lines[-1] == {"schema": 1, "event": "verify-progress", "done": whole, "size": whole}


def test_a_repair_says_what_was_done_and_what_was_not(root: Path, micropod: CommandLine) -> None:
    damage.entry_repeated(0)(root)
    (root / "notes").touch()
    said = micropod("verify", "--repair")
    assert said.status == 7
    assert said.out.splitlines()[0].startswith("repaired  docker.io/library/app:1 is listed once")
    assert f"1 problem left: {root}/notes is not of a store" in said.err
    (root / "notes").unlink()
    damage.entry_repeated(0)(root)
    document = micropod("verify", "--repair", "--json").document
    assert document["ok"] is True
    data = document["data"]
    assert isinstance(data, dict)
    assert (data["problems"], data["repaired"]) == (
        [],
        [
            {
                "code": "merged-entries",
                "message": f"docker.io/library/app:1 is listed once for linux/amd64, as {IMAGE.digest}",
                "path": f"{root}/images/index.json",
                "images": ["docker.io/library/app:1"],
            }
        ],
    )
    assert micropod("verify", "--repair").out.startswith("all is well")


def test_a_torn_version_file_is_written_again(root: Path, micropod: CommandLine) -> None:
    (root / "version").write_bytes(b"")
    assert micropod("verify", "--repair").status == 0
    assert micropod("images").status == 0
