from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import tools
from micropod_img.errors import ToolError
from micropod_img.tools import PendingTool, Tool, find_tool, load_lock

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGED = Path(tools.__file__).parent / "_tools"

# The packaged programs are built when the package is installed, so they are there wherever these tests can run.
CRANE = PACKAGED / "crane"


@dataclass(frozen=True)
class Machine:
    sysname: str
    machine: str


@pytest.fixture(autouse=True)
def _no_directory_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MICROPOD_TOOLS_DIR", raising=False)


@pytest.fixture
def own_copies(tmp_path: Path) -> Path:
    """A folder with the pinned crane, as a distribution packager would make one."""
    shutil.copy2(CRANE, tmp_path / "crane")
    return tmp_path


@pytest.mark.parametrize(("name", "version"), [("crane", "0.21.9"), ("umoci", "0.6.0")])
def test_the_packaged_program_is_found(name: str, version: str) -> None:
    assert find_tool(name) == Tool(name, version, PACKAGED / name)


def test_a_program_on_path_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_copies: Path) -> None:
    monkeypatch.setenv("PATH", str(own_copies))
    monkeypatch.setattr(tools, "_PACKAGED_TOOLS", tmp_path / "nothing")
    with pytest.raises(ToolError, match="is missing"):
        find_tool("crane")


def test_the_environment_names_a_folder_that_comes_first(own_copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROPOD_TOOLS_DIR", str(own_copies))
    assert find_tool("crane").path == own_copies / "crane"


def test_a_given_folder_comes_before_the_environments(own_copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROPOD_TOOLS_DIR", "/nonexistent")
    assert find_tool("crane", directory=own_copies).path == own_copies / "crane"


def test_an_empty_variable_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROPOD_TOOLS_DIR", "")
    assert find_tool("crane").path == CRANE


def test_a_relative_folder_gives_an_absolute_path(own_copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_copies.parent)
    assert find_tool("crane", directory=Path(own_copies.name)).path == own_copies / "crane"


def test_what_a_given_folder_lacks_comes_from_the_package(own_copies: Path) -> None:
    assert find_tool("umoci", directory=own_copies).path == PACKAGED / "umoci"


def test_a_missing_program_is_reported_with_everywhere_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_PACKAGED_TOOLS", tmp_path / "packaged")
    with pytest.raises(ToolError) as caught:
        find_tool("crane", directory=tmp_path / "given")
    assert caught.value.code == "tool-missing"
    assert caught.value.exit_status == 11
    assert str(tmp_path / "given" / "crane") in caught.value.message
    assert str(tmp_path / "packaged" / "crane") in caught.value.message
    assert "MICROPOD_TOOLS_DIR" in (caught.value.hint or "")


def flip_one_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def put_a_script_in_its_place(path: Path) -> None:
    path.write_text("#!/bin/sh\n", encoding="utf-8")


@pytest.mark.parametrize("alter", [flip_one_byte, cut_short, put_a_script_in_its_place])
def test_an_altered_program_is_refused(own_copies: Path, alter: Callable[[Path], None]) -> None:
    alter(own_copies / "crane")
    with pytest.raises(ToolError) as caught:
        find_tool("crane", directory=own_copies)
    expected = load_lock()["crane"].sha256
    assert caught.value.code == "tool-altered"
    assert caught.value.exit_status == 11
    assert str(own_copies / "crane") in caught.value.message
    assert any(digest in caught.value.message for digest in expected.values())
    assert "MICROPOD_TOOLS_DIR" in (caught.value.hint or "")


def test_an_altered_packaged_program_is_repaired_by_installing_again(
    own_copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_one_byte(own_copies / "crane")
    monkeypatch.setattr(tools, "_PACKAGED_TOOLS", own_copies)
    with pytest.raises(ToolError) as caught:
        find_tool("crane")
    assert "--force-reinstall" in (caught.value.hint or "")


def test_a_program_that_is_altered_after_it_was_checked_is_refused(own_copies: Path) -> None:
    find_tool("crane", directory=own_copies)
    flip_one_byte(own_copies / "crane")
    with pytest.raises(ToolError, match=r"is not the crane 0\.21\.9 that is pinned"):
        find_tool("crane", directory=own_copies)


def test_a_program_is_read_once_in_a_process(own_copies: Path) -> None:
    first = find_tool("crane", directory=own_copies)
    before = tools._sha256_of_file.cache_info()
    assert find_tool("crane", directory=own_copies) == first
    after = tools._sha256_of_file.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_a_program_that_may_not_be_executed_is_refused(own_copies: Path) -> None:
    (own_copies / "crane").chmod(stat.S_IRUSR)
    with pytest.raises(ToolError) as caught:
        find_tool("crane", directory=own_copies)
    assert caught.value.code == "tool-not-executable"
    assert "chmod" in (caught.value.hint or "")


def make_a_folder(path: Path) -> None:
    path.mkdir()


def make_a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_a_folder, make_a_dangling_link])
def test_what_cannot_be_read_is_refused_and_not_skipped(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "crane")
    with pytest.raises(ToolError) as caught:
        find_tool("crane", directory=tmp_path)
    assert caught.value.code == "tool-unreadable"


@pytest.mark.parametrize("machine", [Machine("Linux", "riscv64"), Machine("Darwin", "arm64")])
def test_a_machine_without_a_pinned_build_is_told_which_there_are(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: machine)
    with pytest.raises(ToolError) as caught:
        find_tool("crane")
    assert caught.value.code == "tool-platform"
    assert "linux-amd64, linux-arm64" in caught.value.message
    assert f"{machine.sysname.lower()}-{machine.machine}" in caught.value.message


def test_a_program_for_another_architecture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    monkeypatch.setattr(os, "uname", lambda: Machine("Linux", other))
    with pytest.raises(ToolError, match="its sha256 is"):
        find_tool("crane")


def test_a_program_that_is_not_pinned_is_never_found() -> None:
    with pytest.raises(ToolError, match="pins no skopeo"):
        find_tool("skopeo")


def test_every_tool_is_pinned_for_the_same_platforms_by_a_whole_sha256() -> None:
    lock = load_lock()
    assert set(lock) == {"crane", "umoci"}
    for pinned in lock.values():
        assert set(pinned.sha256) == {"linux-amd64", "linux-arm64"}
        assert all(len(bytes.fromhex(digest)) == 32 for digest in pinned.sha256.values())


@pytest.mark.parametrize("text", ["", "tools = 1", "[tools.crane]\n", "[tools]\ncrane = 1\n", "= not toml"])
def test_a_lock_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tools.lock"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ToolError, match="cannot be read"):
        load_lock(path)


def test_a_missing_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is missing"):
        load_lock(tmp_path / "tools.lock")


def test_a_check_begun_early_gives_the_program_when_it_is_asked_for() -> None:
    pending = PendingTool("crane")
    assert pending.result() == find_tool("crane")
    assert pending.result() == find_tool("crane")


def test_a_check_begun_early_raises_where_its_result_is_asked_for(own_copies: Path) -> None:
    flip_one_byte(own_copies / "crane")
    pending = PendingTool("crane", directory=own_copies)
    with pytest.raises(ToolError, match=r"is not the crane 0\.21\.9"):
        pending.result()
