from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.errors import ConflictError, DiskError, IntegrityError, UnsupportedError
from micropod_img.store.layout import FORMAT, StoreLayout
from tests.support.layouts import write_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parent.parent.parent


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """In force once the directory of the test is there."""
    assert tmp_path.exists()
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time of the last change, and content of everything below a directory."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
    }


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# What is made


def test_a_store_is_made_where_nothing_is(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "a" / "b" / "root")
    layout.prepare()
    assert (layout.root / "version").read_text() == f"{FORMAT}\n" == "1\n"
    assert json.loads((layout.root / "images" / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout.root / "images" / "index.json").read_bytes())
    assert (index["schemaVersion"], index["manifests"]) == (2, [])
    assert (layout.root / "images" / "blobs" / "sha256").is_dir()
    assert {path.name for path in layout.root.iterdir()} == {"version", "images", "tmp", "locks"}
    assert list((layout.root / "locks").iterdir()) == []


def test_only_the_owner_may_look_into_a_store_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "root")
    layout.prepare()
    assert mode_of(layout.root) == 0o700, oct(umask)
    assert mode_of(layout.index) == mode_of(layout.images / "oci-layout") == mode_of(layout.version) == 0o644
    assert all(mode_of(path) == 0o700 for path in layout.root.rglob("*") if path.is_dir())


def test_an_empty_directory_that_others_may_look_into_becomes_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    StoreLayout(tmp_path).prepare()
    assert mode_of(tmp_path) == 0o700


def test_a_store_that_is_there_is_left_alone(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "root")
    layout.prepare()
    before = tree(layout.root)
    layout.prepare()
    assert tree(layout.root) == before


def test_looking_makes_nothing(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "root")
    layout.check()
    assert not layout.exists()
    assert not layout.root.exists()


def test_many_processes_may_make_a_store_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from micropod_img.store.store import Store\n"
        "store = Store(Path(sys.argv[1])); sys.stdin.read(); store.prepare(); store.read_index()"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "root")]
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=CHECKOUT) for _ in range(5)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 5
    assert list((tmp_path / "root" / "locks").iterdir()) == []


# What a killed process leaves


@pytest.mark.parametrize(
    "left",
    [
        [],
        ["locks/"],
        ["locks/", "locks/prepare.lock"],
        ["locks/", "tmp/"],
        ["locks/", "tmp/", "images/"],
        ["locks/", "tmp/", "images/", "images/blobs/"],
        ["locks/", "tmp/", "images/blobs/sha256/", "locks/oci-layout.new"],
        ["locks/", "tmp/", "images/blobs/sha256/", "images/oci-layout", "locks/index.json.new"],
        ["locks/", "tmp/", "images/blobs/sha256/", "images/oci-layout", "locks/version.new"],
    ],
    ids=lambda left: left[-1] if left else "nothing",
)
def test_a_store_that_was_half_made_is_made_whole(left: list[str], tmp_path: Path) -> None:
    for name in left:
        path = tmp_path / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.write_bytes(b"" if name.endswith(".lock") else b'{"half')
    (tmp_path / "images" / "oci-layout").unlink(missing_ok=True)
    layout = StoreLayout(tmp_path)
    layout.prepare()
    assert json.loads(layout.index.read_bytes())["manifests"] == []
    assert layout.version.read_text() == "1\n"


def test_the_version_is_written_when_all_else_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = StoreLayout(tmp_path / "root")
    synced: list[Path] = []
    fsync, replace = fsutil.fsync_directory, fsutil.replace_durably

    def noted_fsync(path: Path) -> None:
        synced.append(path)
        fsync(path)

    def noted_replace(path: Path, content: bytes, *, staging: Path) -> None:
        if path == layout.version:
            assert layout.index.exists()
            assert {tmp_path, layout.images, layout.blobs.parent} <= set(synced)
        replace(path, content, staging=staging)
        synced.append(path)

    monkeypatch.setattr(fsutil, "fsync_directory", noted_fsync)
    monkeypatch.setattr(fsutil, "replace_durably", noted_replace)
    layout.prepare()
    assert synced.index(layout.version) < synced.index(layout.root, synced.index(layout.version))


@pytest.mark.parametrize("name", ["tmp", "locks", "images/blobs/sha256", "images/blobs"])
def test_directories_that_somebody_removed_are_made_again(name: str, tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "root")
    layout.prepare()
    for path in sorted((layout.root / name).rglob("*"), reverse=True):
        path.rmdir()
    (layout.root / name).rmdir()
    layout.prepare()
    assert (layout.root / name).is_dir()


def test_an_index_that_somebody_removed_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "root")
    layout.prepare()
    layout.index.unlink()
    layout.staging.rmdir()
    layout.prepare()
    assert not layout.index.exists()


# What is refused


@pytest.mark.parametrize("text", ["2", "10\n", "999999999", "9" * 5000])
def test_a_newer_store_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text)
    for refused in (StoreLayout(tmp_path).check, StoreLayout(tmp_path).prepare):
        with pytest.raises(UnsupportedError) as raised:
            refused()
        assert (raised.value.exit_status, raised.value.code) == (8, "store-format")
        assert len(raised.value.message) < 200 + len(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["version"]


@pytest.mark.parametrize("content", [b"", b"\n", b"x", b"0", b"-1", b"1.0", b"1 2", "²".encode(), b"\xff", b"\x1b[2J"])
def test_a_version_that_is_no_number_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "version").write_bytes(content)
    with pytest.raises(IntegrityError) as raised:
        StoreLayout(tmp_path).check()
    assert (raised.value.exit_status, raised.value.code) == (7, "corrupt-version")
    assert raised.value.message.isprintable()


@pytest.mark.parametrize("text", ["1", "1\n", " 1 \r\n"])
def test_a_version_may_have_space_around_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text)
    StoreLayout(tmp_path).check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory to somebody else")
def test_a_store_of_somebody_else_is_refused(tmp_path: Path) -> None:
    StoreLayout(tmp_path / "root").prepare()
    os.chown(tmp_path / "root", 12345, 12345)
    with pytest.raises(DiskError, match="belongs to user 12345") as raised:
        StoreLayout(tmp_path / "root").check()
    assert (raised.value.exit_status, raised.value.code) == (10, "foreign-store")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory to somebody else")
def test_a_directory_that_somebody_makes_in_our_place_just_now_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(path: Path) -> None:
        path.mkdir()
        os.chown(path, 12345, 12345)

    monkeypatch.setattr(fsutil, "make_directory", planted)
    with pytest.raises(DiskError, match="belongs to user 12345"):
        StoreLayout(tmp_path / "root").prepare()
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o1777])
def test_a_store_that_was_opened_to_others_is_closed_again(mode: int, tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "root")
    layout.prepare()
    layout.root.chmod(mode)
    layout.prepare()
    assert mode_of(layout.root) == 0o700


def test_a_store_through_a_link_is_the_store_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("root")
    StoreLayout(tmp_path / "root").prepare()
    StoreLayout(tmp_path / "link").prepare()
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"link", "root"}


@pytest.mark.parametrize(
    "names",
    [
        ["README"],
        ["images/photo.jpeg", "tmp/draft"],
        ["tmp/draft"],
        ["locks/door", "keys/door"],
        ["version.txt"],
        [".git/config"],
    ],
    ids=lambda names: names[-1],
)
def test_a_directory_of_something_else_is_refused_and_not_touched(names: list[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(ConflictError) as raised:
        StoreLayout(tmp_path).prepare()
    assert (raised.value.exit_status, raised.value.code) == (9, "not-a-store")
    assert tree(tmp_path) == before
    assert mode_of(tmp_path) == 0o755


def test_a_layout_beside_somebodys_tmp_is_not_adopted_as_a_sweep_would_empty_that(tmp_path: Path) -> None:
    write_layout(tmp_path / "images", [])
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "draft").write_text("precious")
    with pytest.raises(ConflictError):
        StoreLayout(tmp_path).prepare()
    assert (tmp_path / "tmp" / "draft").exists()


def test_a_fresh_filesystem_is_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    StoreLayout(tmp_path).prepare()
    assert (tmp_path / "version").exists()


def test_who_gives_an_oci_layout_as_root_is_told_where_to_put_it(tmp_path: Path) -> None:
    write_layout(tmp_path, [])
    for refused in (StoreLayout(tmp_path).check, StoreLayout(tmp_path).prepare):
        with pytest.raises(ConflictError, match="is an OCI layout and not a micropod store") as raised:
            refused()
        assert str(tmp_path / "images") in (raised.value.hint or "")


@pytest.mark.parametrize("what", ["root", "parent", "version"])
def test_a_file_and_a_directory_in_each_others_place_are_errors_of_the_disk(what: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    if what == "root":
        root.write_text("")
    elif what == "parent":
        root.write_text("")
        root = root / "below"
    else:
        (root / "version").mkdir(parents=True)
    with pytest.raises(DiskError) as raised:
        StoreLayout(root).prepare()
    assert str(root) in raised.value.message
