"""A disk that fails: the image of a mounted filesystem is cut short, so that the kernel answers EIO when it is read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import IntegrityError
from micropod_img.store import blobs
from tests.disk.conftest import HERE, OTHER
from tests.rootfs.local_images import LocalService
from tests.support import stores
from tests.support.small_filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from micropod_img.service import ImageService
    from tests.support.scripted import ScriptedRegistry


@pytest.fixture
def failing(tmp_path: Path, config: Path) -> Iterator[LocalService]:
    """A service with two images on a disk of which nothing can be read any more but what is in memory."""
    with mounted("ext4", tmp_path) as disk:
        service = LocalService(disk.path / "store", config)
        for ref, one in (("local/here:1", HERE), ("local/other:1", OTHER)):
            service.put(one, ref)
        os.sync()
        for path in disk.path.rglob("blobs/sha256/*"):
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.truncate(tmp_path / "ext4.img", 64 << 10)
        yield service


COMMANDS: dict[str, Callable[[ImageService], object]] = {
    "images": lambda service: service.list_images(),
    "inspect": lambda service: service.get_image("local/here:1"),
    "df": lambda service: service.disk_usage(),
    "gc": lambda service: service.collect_garbage(),
    "pod create": lambda service: service.create_pod("local/here:1", policy="never"),
    "unpack": lambda service: service.unpack("local/here:1", service.root.parent.parent / "files", policy="never"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_a_command_cannot_read_is_damaged(
    command: Callable[[ImageService], object], failing: LocalService
) -> None:
    with pytest.raises(IntegrityError, match="cannot be read: Input/output error") as raised:
        command(failing)

    assert raised.value.code == "unreadable-blob"
    assert not (failing.root.parent.parent / "files").exists()


def test_an_image_that_cannot_be_read_can_be_removed(failing: LocalService) -> None:
    failing.delete_image("local/here:1")

    assert stores.listed(failing.root) == [("docker.io/local/other:1", OTHER.digest)]


def test_verify_says_of_a_disk_that_fails_what_cannot_be_read(failing: LocalService) -> None:
    assert failing.verify().problems != ()


def test_a_document_that_cannot_be_read_is_fetched_again_by_a_pull(
    tmp_path: Path, config: Path, scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = LocalService(tmp_path / "store", config)
    ref = scripted.serve("some/image", "1", HERE)
    service.pull_image(ref)
    path = stores.blob_path(service.root, HERE.digest)
    bad = path.stat().st_ino

    def unless_bad(read: Callable[..., object]) -> Callable[..., object]:
        def reading(name: str | Path, *arguments: object, **keywords: object) -> object:
            if Path(name) == path and path.stat().st_ino == bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return read(name, *arguments, **keywords)

        return reading

    monkeypatch.setattr(os, "open", unless_bad(os.open))
    monkeypatch.setattr(blobs, "file_digest", unless_bad(blobs.file_digest))
    with pytest.raises(IntegrityError, match="cannot be read"):
        service.get_image(ref)

    assert service.pull_image(ref).digest == HERE.digest
    assert service.get_image(ref).digest == HERE.digest
    assert path.stat().st_ino != bad
