from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.command_line import process
from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.registries import Registry


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["-h"],
        ["version"],
        ["digest", "--help"],
        ["nonsense"],
        ["--json"],
        ["version", "--json"],
        ["--", "version"],
        ["manifest", "--", "127.0.0.1:1/x"],
    ],
)
def test_crane_is_passed_every_argument_and_ends_as_it_does(arguments: list[str], crane: Path) -> None:
    own = run(crane, *arguments)
    passed = process("crane", *arguments)
    assert (passed.status, passed.out) == (own.returncode, own.stdout)
    # What it logs begins with the time.
    assert passed.err.splitlines()[1:] == own.stderr.splitlines()[1:]


def test_crane_reaches_a_registry_that_wants_nothing(crane: Path, crane_registry: Registry, ref: str) -> None:
    assert crane
    repository = ref.removeprefix(f"{crane_registry.host}/").rpartition(":")[0]
    assert process("crane", "ls", f"{crane_registry.host}/{repository}").out == "v1\n"


def test_a_crane_that_is_missing_is_told(crane: Path, tmp_path: Path) -> None:
    assert crane
    (tmp_path / "crane").write_text("#!/bin/sh\n")
    said = process("crane", "version", extra={"MICROPOD_TOOLS_DIR": str(tmp_path)})
    assert said.status == 11
    assert said.err.startswith("micropod-img: ")


def test_crane_and_version_need_no_store(crane: Path, store_root: Path) -> None:
    assert crane
    (store_root / "version").write_text("99\n")
    assert process("--root", store_root, "images").status == 8
    assert process("--root", store_root, "crane", "version").status == 0
    assert process("--root", store_root, "version").status == 0


def test_global_options_before_crane_are_ours(crane: Path, tmp_path: Path) -> None:
    assert crane
    said = process("--config", tmp_path / "absent.toml", "crane", "version")
    assert said.status == 2
    assert "absent.toml" in said.err
