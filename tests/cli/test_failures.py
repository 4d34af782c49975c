from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError, UnavailableError
from micropod_img.service import ImageService
from tests.cli.command_line import PROGRAM, CommandLine, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.registries import Registry


def raising(problem: BaseException) -> Callable[[ImageService], None]:
    def broken(_service: ImageService) -> None:
        raise problem

    return broken


def every_kind(base: type[MicropodError] = MicropodError) -> list[type[MicropodError]]:
    ours = [kind for kind in base.__subclasses__() if kind.__module__ == "micropod_img.errors"]
    return [one for kind in ours for one in (kind, *every_kind(kind))]


@pytest.mark.parametrize("kind", [kind for kind in every_kind() if kind.__name__ != "InterruptedBySignalError"])
def test_the_exit_status_is_that_of_the_error(
    kind: type[MicropodError], micropod: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageService, "disk_usage", raising(kind("what happened", hint="what to do")))
    said = micropod("df")
    assert said.status == kind.exit_status
    assert (said.out, said.err) == ("", "micropod-img: what happened\nhint: what to do\n")


def test_an_error_without_a_next_step_has_no_hint(micropod: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageService, "disk_usage", raising(UnavailableError("what happened")))
    assert micropod("df").err == "micropod-img: what happened\n"


def test_more_is_told_when_verbose(micropod: CommandLine, crane_registry: Registry) -> None:
    absent = crane_registry.reference("nobody/has", "this")
    brief, whole = micropod("pull", absent), micropod("pull", "-v", absent)
    assert whole.status == brief.status == 3
    assert "NAME_UNKNOWN" not in brief.err
    assert f"exit status 3, stage resolve, endpoint {crane_registry.host}" in whole.err
    assert re.search(r"^  \| Error: .*NAME_UNKNOWN", whole.err, re.MULTILINE)


def test_errors_are_told_when_quiet_too(micropod: CommandLine) -> None:
    assert micropod("inspect", "-q", "absent").err.startswith("micropod-img: no image here is called absent\n")


class TestBugs:
    """What nobody expected: no traceback on the terminal, but a log of it."""

    @pytest.fixture
    def _bug(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ImageService, "disk_usage", raising(ValueError("odd\x1b[31m\nthing")))

    @pytest.mark.usefixtures("_bug")
    def test_a_bug_is_called_one_and_its_log_is_named(self, micropod: CommandLine, tmp_path: Path) -> None:
        said = micropod("df")
        assert said.status == 1
        assert said.err.startswith("micropod-img: a bug in micropod-img: ValueError: odd\\x1b[31m\\nthing\n")
        assert "Traceback" not in said.err
        (log,) = (tmp_path / "xdg_state_home" / "micropod").iterdir()
        assert str(log) in said.err
        assert "raise problem\nValueError: odd" in log.read_text()
        assert log.stat().st_mode & 0o777 == 0o600
        assert log.parent.stat().st_mode & 0o777 == 0o700

    @pytest.mark.usefixtures("_bug")
    def test_its_log_is_in_directories_that_nobody_else_can_write_to(
        self, micropod: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_STATE_HOME")
        before = os.umask(0)
        try:
            micropod("df")
        finally:
            os.umask(before)
        assert all(path.stat().st_mode & 0o022 == 0 for path in (tmp_path / "home").rglob("*"))
        assert len(list((tmp_path / "home/.local/state/micropod").iterdir())) == 1

    @pytest.mark.usefixtures("_bug")
    def test_its_traceback_is_shown_when_verbose(self, micropod: CommandLine) -> None:
        assert "  | Traceback (most recent call last):" in micropod("df", "-v").err

    @pytest.mark.usefixtures("_bug")
    def test_its_log_is_in_the_home_directory_without_xdg(
        self, micropod: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_STATE_HOME")
        micropod("df")
        assert list((tmp_path / "home" / ".local" / "state" / "micropod").iterdir())

    @pytest.mark.usefixtures("_bug")
    def test_its_log_is_a_temporary_file_where_there_is_no_other_place(
        self, micropod: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        micropod("df")
        (log,) = tmp_path.glob("micropod-img-*.log")
        assert log.stat().st_mode & 0o777 == 0o600

    @pytest.mark.usefixtures("_bug")
    def test_nothing_of_the_command_line_is_in_its_log(self, micropod: CommandLine, tmp_path: Path) -> None:
        micropod("df", "--config", os.devnull)
        (log,) = (tmp_path / "xdg_state_home" / "micropod").iterdir()
        assert str(micropod.root) not in log.read_text()


class TestOutput:
    """Where stdout goes is not the program's to choose."""

    @staticmethod
    def shell(command: str, root: Path) -> subprocess.CompletedProcess[str]:
        script = f'set -o pipefail; micropod() {{ {" ".join(PROGRAM)} --root {root} "$@"; }}; {command}'
        return subprocess.run(
            ["/bin/bash", "-c", script], env=environment(), capture_output=True, text=True, timeout=60, check=False
        )

    @pytest.mark.parametrize("command", ["images", "images --json", "--help"])
    def test_a_reader_that_went_away_is_no_news(self, command: str, store_root: Path) -> None:
        ended = self.shell(f"micropod {command} | true", store_root)
        # The reader may be gone before anything is written, or read nothing of what was.
        assert ended.returncode in {0, 141}
        assert ended.stderr == ""

    def test_a_reader_that_is_gone_is_told_by_the_status(self, store_root: Path) -> None:
        ended = self.shell("{ sleep 1; micropod images; } | true", store_root)
        assert (ended.returncode, ended.stderr) == (141, "")

    def test_a_full_disk_under_stdout_is_an_error(self, store_root: Path) -> None:
        ended = self.shell("micropod images >/dev/full", store_root)
        assert ended.returncode == 10
        assert ended.stderr == "micropod-img: standard output cannot be written: No space left on device\n"

    def test_stdout_and_stderr_may_be_closed(self, store_root: Path) -> None:
        assert self.shell("micropod images >&- 2>&-", store_root).returncode == 0
        assert self.shell("micropod inspect absent >&- 2>&-", store_root).returncode == 3

    def test_a_locale_without_unicode_does_not_stop_it(self, store_root: Path) -> None:
        ended = self.shell("PYTHONIOENCODING=ascii micropod inspect 'größe'", store_root)
        assert ended.returncode == 2
        assert "gr\\xf6" in ended.stderr
