from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import DiskError
from micropod_img.pull.private_place import private_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BASE = f"micropod-{os.geteuid()}"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_places_of_a_user_are_side_by_side(temporary: Path) -> None:
    with private_place() as one, private_place() as other:
        assert one.parent == other.parent == temporary / BASE
        assert one != other
        assert stat.S_IMODE(one.stat().st_mode) == 0o700
    assert list((temporary / BASE).iterdir()) == []


def test_what_nobody_holds_is_removed_by_who_comes_next(temporary: Path) -> None:
    left = temporary / BASE / "left"
    left.mkdir(parents=True, mode=0o700)
    left.parent.chmod(0o700)
    with private_place():
        assert not left.exists()


def test_a_directory_that_others_may_write_to_is_not_used(temporary: Path) -> None:
    (temporary / BASE).mkdir()
    (temporary / BASE).chmod(0o777)
    with private_place() as place:
        assert place.parent == temporary


def test_a_process_that_is_stopped_holds_up_nobody(temporary: Path) -> None:
    (temporary / BASE).mkdir(mode=0o700)
    with locked(temporary / BASE), private_place() as place:
        assert place.parent == temporary


def test_that_there_is_no_room_for_temporary_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(DiskError, match="no directory for temporary files") as caught, private_place():
        pass
    assert "TMPDIR" in (caught.value.hint or "")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
