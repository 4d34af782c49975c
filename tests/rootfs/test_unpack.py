from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import ConflictError, DiskError, NotFoundError, UnsafeError, UsageError
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import header, tree
from tests.rootfs.unpacking import as_root
from tests.support import stores
from tests.support.layers import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = as_root


@pytest.fixture
def service(store_root: Path) -> LocalService:
    return LocalService(store_root)


@pytest.fixture
def ref(service: LocalService) -> str:
    return service.put_layers([Entry("a", b"1")], [Entry("d/b")])


def test_an_empty_directory_is_taken(service: LocalService, ref: str, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir(mode=0o700)
    assert service.unpack(ref, tmp_path / "dest", policy="never") == tmp_path / "dest"
    assert set(tree(tmp_path / "dest")) == {b"a", b"d", b"d/b"}
    assert (tmp_path / "dest").stat().st_mode & 0o777 == 0o755


def test_a_relative_destination_is_taken_from_the_working_directory(
    service: LocalService, ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert service.unpack(ref, "dest", policy="never") == tmp_path / "dest"


@pytest.mark.parametrize("kind", ["full", "file", "dangling"])
def test_what_is_there_already_is_left_as_it_is(kind: str, service: LocalService, ref: str, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    if kind == "full":
        dest.mkdir()
        (dest / "mine").touch()
    elif kind == "file":
        dest.touch()
    else:
        (tmp_path / "there").touch()
        dest.symlink_to("there")
    before = tree(tmp_path)
    with pytest.raises(ConflictError) as caught:
        service.unpack(ref, dest, policy="never")
    assert caught.value.code == "destination-exists"
    assert {path: node for path, node in tree(tmp_path).items() if not path.startswith(b"store")} == {
        path: node for path, node in before.items() if not path.startswith(b"store")
    }


def test_a_destination_is_looked_at_before_anything_is_pulled(service: LocalService, tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        service.unpack("127.0.0.1:1/nothing/there", tmp_path, policy="always")


def test_a_destination_without_a_parent_is_not_found(service: LocalService, ref: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        service.unpack(ref, tmp_path / "no/dest", policy="never")


def test_a_destination_inside_of_the_store_is_refused(service: LocalService, ref: str, store_root: Path) -> None:
    with pytest.raises(UsageError):
        service.unpack(ref, store_root / "images/dest", policy="never")


def test_a_layer_that_is_refused_leaves_nothing_beside_the_destination(service: LocalService, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(UnsafeError):
        service.unpack(service.put_layers([Entry("a")], [header(b".wh..", b"0")]), tmp_path / "dest", policy="never")
    assert set(tmp_path.iterdir()) == before


def test_it_stays_when_the_store_is_gone(service: LocalService, ref: str, tmp_path: Path) -> None:
    dest = service.unpack(ref, tmp_path / "dest", policy="never")
    service.delete_image(ref)
    assert (dest / "a").read_bytes() == b"1"
    assert (dest / "a").stat().st_nlink == 1


def test_an_image_without_layers_is_an_empty_directory(service: LocalService, tmp_path: Path) -> None:
    assert tree(service.unpack(service.put_layers(), tmp_path / "dest", policy="never")) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["/usr/bin/umount", disk], check=True)


def test_another_filesystem_is_filled_as_well(service: LocalService, ref: str, small_disk: Path) -> None:
    assert set(tree(service.unpack(ref, small_disk / "dest", policy="never"))) == {b"a", b"d", b"d/b"}
    assert list(small_disk.iterdir()) == [small_disk / "dest"]


def test_a_full_disk_is_said_and_left_as_it_was(service: LocalService, small_disk: Path) -> None:
    ref = service.put_layers([Entry("big", os.urandom(12 << 20))])
    with pytest.raises(DiskError) as caught:
        service.unpack(ref, small_disk / "dest", policy="never")
    assert caught.value.code == "disk-full"
    assert list(small_disk.iterdir()) == []


def test_a_mount_point_is_refused_as_the_files_could_not_appear_at_once(
    service: LocalService, ref: str, small_disk: Path
) -> None:
    with pytest.raises(ConflictError) as caught:
        service.unpack(ref, small_disk, policy="never")
    assert caught.value.code == "destination-mounted"


@pytest.fixture
def killed(service: LocalService, store_root: Path, tmp_path: Path) -> tuple[str, Path]:
    """An image that was being unpacked to ``dest`` in a directory when the process that did it was killed."""
    ref = service.put_layers([Entry(f"f{number}", b"x" * 500) for number in range(20_000)])
    code = (
        "import sys; from micropod_img import ImageService as S; S(sys.argv[1]).unpack(*sys.argv[2:], policy='never')"
    )
    here = tmp_path / "here"
    here.mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(store_root), ref, str(here / "dest")]) as child:
        while not any(here.glob(".dest.micropod-*/rootfs/f*")):
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert not (here / "dest").exists()
    assert any(here.iterdir())
    return ref, here


def test_what_a_killed_process_left_beside_its_destination_goes_with_the_next_sweep(
    service: LocalService, killed: tuple[str, Path], store_root: Path
) -> None:
    ref, here = killed
    removed = service.delete_image(ref)
    assert list(here.iterdir()) == []
    assert removed.freed_bytes > 0  # it had links to the blobs
    assert stores.blobs(store_root) == set()


def test_what_a_killed_process_left_is_removed_by_the_next(service: LocalService, killed: tuple[str, Path]) -> None:
    ref, here = killed
    assert len(tree(service.unpack(ref, here / "dest", policy="never"))) == 20_000
    assert list(here.iterdir()) == [here / "dest"]
    assert Path(here / "dest/f0").read_bytes() == b"x" * 500


def test_it_is_removed_as_well_by_one_that_is_refused_and_nothing_else_is(
    service: LocalService, tmp_path: Path
) -> None:
    ref = service.put_layers([Entry("a", b"1")])
    here = tmp_path / "here"
    kept = [here / "dest/file", here / ".dest.micropod-/file", here / ".dest.micropod-0123456789ab/file"]
    left = here / ".other.micropod-0123456789ab/rootfs"
    for path in (*kept, left):
        path.parent.mkdir(parents=True)
        path.touch()
    os.chown(kept[2].parent, 12345, 12345)
    with pytest.raises(ConflictError):
        service.unpack(ref, here / "dest", policy="never")
    assert all(path.exists() for path in kept)
    assert not left.parent.exists()
