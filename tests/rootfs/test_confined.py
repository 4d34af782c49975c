"""Paths of an image lead nowhere but into it, whichever of the two ways resolves them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from micropod_img.rootfs.confined import ConfinedRoot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root filesystem in the middle of a tree that has secrets at every level above it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("outside")
    (tmp_path / "passwd").write_text("outside")
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "usr/etc").mkdir(parents=True)
    return root


@pytest.fixture(params=[True, False], ids=["openat2", "step by step"])
def confined(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[ConfinedRoot]:
    with ConfinedRoot(rootfs, use_openat2=request.param) as root:
        yield root


def test_a_plain_file_is_read(confined: ConfinedRoot, rootfs: Path) -> None:
    (rootfs / "etc/passwd").write_text("inside")
    assert confined.read_file("/etc/passwd", limit=6) == b"inside"


@pytest.mark.parametrize("target", ["../usr/etc/passwd", "/usr/etc/passwd", "../../../../usr/etc/passwd"])
def test_a_link_is_followed_as_a_process_inside_would(confined: ConfinedRoot, rootfs: Path, target: str) -> None:
    (rootfs / "usr/etc/passwd").write_text("inside")
    (rootfs / "etc/passwd").symlink_to(target)
    assert confined.read_file("etc/passwd", limit=100) == b"inside"


def test_a_link_in_the_middle_is_followed_as_a_process_inside_would(confined: ConfinedRoot, rootfs: Path) -> None:
    (rootfs / "usr/etc/passwd").write_text("inside")
    (rootfs / "etc").rmdir()
    (rootfs / "etc").symlink_to("/usr/lib/../etc")
    (rootfs / "usr/lib").mkdir()
    assert confined.read_file("etc/passwd", limit=100) == b"inside"


@pytest.mark.parametrize(
    "target",
    ["../../passwd", "../../etc/passwd", "/etc/../../passwd", "{outside}/passwd", "/proc/self/root/etc/passwd"],
)
def test_no_link_leads_out(confined: ConfinedRoot, rootfs: Path, target: str) -> None:
    (rootfs / "etc/link").symlink_to(target.format(outside=rootfs.parent))
    assert confined.read_file("etc/link", limit=100) is None


def test_no_link_in_the_middle_leads_out(confined: ConfinedRoot, rootfs: Path) -> None:
    (rootfs / "etc").rmdir()
    (rootfs / "etc").symlink_to("../etc")
    assert confined.read_file("etc/passwd", limit=100) is None


def test_what_links_to_itself_is_no_file(confined: ConfinedRoot, rootfs: Path) -> None:
    (rootfs / "etc/passwd").symlink_to("passwd")
    assert confined.read_file("etc/passwd", limit=100) is None


def test_a_pipe_is_not_waited_for(confined: ConfinedRoot, rootfs: Path) -> None:
    os.mkfifo(rootfs / "etc/passwd")
    assert confined.read_file("etc/passwd", limit=100) is None


@pytest.mark.parametrize("path", ["etc", "etc/missing", "missing/passwd", "usr/etc/file/passwd"])
def test_what_is_no_regular_file_is_none(confined: ConfinedRoot, rootfs: Path, path: str) -> None:
    (rootfs / "usr/etc/file").touch()
    assert confined.read_file(path, limit=100) is None


def test_a_file_over_the_limit_is_refused(confined: ConfinedRoot, rootfs: Path) -> None:
    (rootfs / "etc/passwd").write_text("inside!")
    with pytest.raises(OSError, match="too large") as refusal:
        confined.read_file("etc/passwd", limit=6)
    assert refusal.value.errno == errno.EFBIG


def test_directories_are_made_with_their_parents_whatever_the_umask(confined: ConfinedRoot, rootfs: Path) -> None:
    previous = os.umask(0o077)
    try:
        confined.make_directory("/srv/data/files")
    finally:
        os.umask(previous)
    made = [rootfs / "srv", rootfs / "srv/data", rootfs / "srv/data/files"]
    assert [path.stat().st_mode & 0o777 for path in made] == [0o755] * 3


def test_a_directory_that_is_there_stays_as_it_is(confined: ConfinedRoot, rootfs: Path) -> None:
    (rootfs / "etc").chmod(0o700)
    confined.make_directory("/etc")
    assert (rootfs / "etc").stat().st_mode & 0o777 == 0o700


def test_directories_are_made_inside_where_a_link_points_out(confined: ConfinedRoot, rootfs: Path) -> None:
    (rootfs / "data").symlink_to("../..")
    confined.make_directory("/data/files")
    assert (rootfs / "files").is_dir()
    assert not (rootfs.parent.parent / "files").exists()


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("missing")])
def test_a_directory_whose_name_is_taken_is_an_error(confined: ConfinedRoot, rootfs: Path, make: object) -> None:
    assert callable(make)
    make(rootfs / "data")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        confined.make_directory("/data")


@pytest.mark.parametrize("use_openat2", [True, False])
def test_nothing_stays_open(rootfs: Path, *, use_openat2: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked
    (rootfs / "etc/passwd").symlink_to("/usr/../usr/etc/passwd")
    (rootfs / "usr/etc/passwd").symlink_to("passwd")
    with ConfinedRoot(rootfs, use_openat2=use_openat2) as root:
        root.read_file("etc/passwd", limit=10)
        root.make_directory("a/b/c")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - counted, not walked
