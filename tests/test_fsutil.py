from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.errors import DiskError
from tests.support.processes import require_program, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """In force once the directory of the test is there."""
    assert tmp_path.exists()
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def another_python(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process of its own, which the test may kill; its lines come through a pipe."""
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        try:
            yield process
        finally:
            process.kill()


# Writing


def test_a_replaced_file_has_the_new_content_and_the_staging_name_is_gone(tmp_path: Path) -> None:
    target, staging = tmp_path / "index.json", tmp_path / "new"
    target.write_bytes(b"old, and longer")
    fsutil.replace_durably(target, b"new", staging=staging)
    assert target.read_bytes() == b"new"
    assert not staging.exists()


def test_what_a_killed_process_left_under_the_staging_name_is_no_obstacle(tmp_path: Path) -> None:
    target, staging = tmp_path / "index.json", tmp_path / "new"
    staging.write_bytes(b"half of so")
    fsutil.replace_durably(target, b"something", staging=staging)
    assert target.read_bytes() == b"something"


def test_a_file_that_cannot_be_replaced_stays_and_the_staging_name_is_gone(tmp_path: Path) -> None:
    target, staging = tmp_path / "directory", tmp_path / "new"
    target.mkdir()
    with pytest.raises(IsADirectoryError):
        fsutil.replace_durably(target, b"x", staging=staging)
    assert target.is_dir()
    assert not staging.exists()


def test_readers_see_the_old_content_or_the_new_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    contents = [letter * 300_000 for letter in (b"a", b"b")]
    fsutil.replace_durably(target, contents[0], staging=tmp_path / "new")
    done = threading.Event()

    def replace() -> None:
        for _ in range(30):
            for content in contents:
                fsutil.replace_durably(target, content, staging=tmp_path / "new")
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = {target.read_bytes()}
    while not done.is_set():
        seen.add(target.read_bytes())
    writer.join()
    assert seen <= set(contents)


REPLACES = """
import sys
from pathlib import Path
from micropod_img.fsutil import replace_durably
replace_durably(Path(sys.argv[1]), b"content", staging=Path(sys.argv[2]))
"""


def test_content_is_durable_before_the_name_is_seen_and_the_name_before_we_go_on(tmp_path: Path) -> None:
    strace = require_program("strace", package="strace")
    trace, target, staging = tmp_path / "trace", tmp_path / "final" / "index.json", tmp_path / "index.json.new"
    target.parent.mkdir()
    calls = "trace=write,fsync,fdatasync,rename,renameat,renameat2"
    traced = run(strace, "-f", "-y", "-o", trace, "-e", calls, sys.executable, "-c", REPLACES, target, staging)
    if "PTRACE" in traced.stderr or "ptrace" in traced.stderr:
        pytest.skip(f"strace may not trace here: {traced.stderr.strip()}")
    traced.check_returncode()
    events = [line for line in trace.read_text().splitlines() if str(tmp_path) in line]
    order = [re.sub(r"^\d+ +", "", line).partition("(")[0].removesuffix("at2").removesuffix("at") for line in events]
    assert order == ["write", "fsync", "rename", "fsync"]
    assert f"<{staging}>" in events[0]
    assert f"<{staging}>" in events[1]
    assert f'"{target}"' in events[2]
    assert f"<{target.parent}>)" in events[3]


def test_a_new_file_is_never_put_in_the_place_of_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"there")
    with pytest.raises(FileExistsError):
        fsutil.write_durably(path, b"new")
    assert path.read_bytes() == b"there"


@pytest.mark.parametrize("make", [fsutil.fsync_file, lambda path: fsutil.write_durably(path, b"")])
def test_a_symbolic_link_is_not_followed(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"symbolic links|File exists"):
        make(link)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_of_a_file_does_not_depend_on_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    fsutil.write_durably(tmp_path / "file", b"", mode=mode)
    assert mode_of(tmp_path / "file") == mode, oct(umask)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_the_mode_of_a_directory_does_not_depend_on_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    fsutil.make_directory(tmp_path / "directory", mode=mode)
    assert mode_of(tmp_path / "directory") == mode, oct(umask)


@pytest.mark.parametrize(("mask", "expected"), [(0o000, 0o755), (0o077, 0o700)])
def test_parents_that_are_missing_are_never_open_to_everyone(mask: int, expected: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        fsutil.make_directory(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    assert [mode_of(tmp_path / path) for path in ("a", "a/b", "a/b/c")] == [expected, expected, 0o700]


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    fsutil.make_directory(tmp_path)
    assert mode_of(tmp_path) == 0o750


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_where_a_directory_should_be_is_an_error(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        fsutil.make_directory(tmp_path / path)


# Errors of the disk


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, "disk-full", "the disk is full"),
        (errno.EDQUOT, "disk-full", "quota"),
        (errno.EROFS, "read-only", "read-only"),
        (errno.EACCES, "permission", "permission denied"),
        (errno.EPERM, "permission", "not permitted"),
        (errno.EXDEV, "several-filesystems", "one filesystem"),
        (errno.EIO, "disk", "Input/output error"),
        (errno.ENAMETOOLONG, "disk", "File name too long"),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else None,
)
def test_errors_of_the_system_become_errors_of_the_disk(number: int, code: str, words: str) -> None:
    with pytest.raises(DiskError) as raised, fsutil.disk_errors("/store"):
        raise OSError(number, os.strerror(number), "/store/blobs/x")
    error = raised.value
    assert (error.code, error.exit_status) == (code, 10)
    assert error.message.startswith("/store/blobs/x: ")
    assert words in error.message
    assert error.detail is not None
    assert os.strerror(number) in error.detail
    assert isinstance(error.__cause__, OSError)
    assert (error.hint is None) == (code == "disk")


@pytest.mark.parametrize("filename", [None, 7], ids=["none", "a descriptor"])
def test_an_error_that_names_no_path_gets_the_one_that_was_meant(filename: int | None) -> None:
    with pytest.raises(DiskError, match=r"^/store: the disk is full"), fsutil.disk_errors(Path("/store")):
        raise OSError(errno.ENOSPC, "No space left on device", filename)


def test_an_error_without_a_number_keeps_its_words() -> None:
    assert fsutil.disk_error(OSError("what the library said"), "/store").message == "/store: what the library said"


def test_a_reader_of_progress_who_went_away_is_not_an_error_of_the_disk() -> None:
    with pytest.raises(BrokenPipeError), fsutil.disk_errors("/store"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


# What locks are made of


def test_shared_locks_keep_each_other_company_and_exclusive_ones_out(tmp_path: Path) -> None:
    descriptors = [os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(3)]
    first, second, third = descriptors
    try:
        assert fsutil.try_lock(first, shared=True)
        assert fsutil.try_lock(second, shared=True)
        assert not fsutil.try_lock(third)
        os.close(descriptors.pop(0))
        os.close(descriptors.pop(0))
        assert fsutil.try_lock(third)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.parametrize("change", ["none", "removed", "replaced", "replaced by a link to it"])
def test_an_open_file_is_told_from_another_that_took_its_name(change: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as stream:
        if change != "none":
            path.rename(tmp_path / "moved")
        if change == "replaced":
            path.touch()
        elif change == "replaced by a link to it":
            path.symlink_to(tmp_path / "moved")
        assert fsutil.same_file(stream.fileno(), path) == (change == "none")
