"""A disk that fails: the image of a mounted filesystem is cut short, so that the kernel answers EIO when it is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from tests.disk.conftest import HERE, OTHER
from tests.rootfs.local_images import LocalService
from tests.support.small_filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from micropod_img.service import ImageService


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
    "rmi": lambda service: service.delete_image("local/here:1"),
    "gc": lambda service: service.collect_garbage(),
    "pod create": lambda service: service.create_pod("local/here:1", policy="never"),
    "unpack": lambda service: service.unpack("local/here:1", service.root.parent.parent / "files", policy="never"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_a_command_cannot_read_is_status_10(
    command: Callable[[ImageService], object], failing: LocalService
) -> None:
    with pytest.raises(MicropodError) as raised:
        command(failing)

    assert raised.value.exit_status == 10
    assert not (failing.root.parent.parent / "files").exists()


def test_verify_says_of_a_disk_that_fails_what_cannot_be_read(failing: LocalService) -> None:
    assert failing.verify().problems != ()
