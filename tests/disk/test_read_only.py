"""A store that cannot be written: what only reads goes on, what writes says why it does not, and nothing is changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import DiskError
from tests.disk.conftest import HERE, OTHER
from tests.rootfs.local_images import LocalService
from tests.support.images import image
from tests.support.layers import layer
from tests.support.small_filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from micropod_img.service import ImageService
    from tests.support.scripted import ScriptedRegistry

NEW = image([layer({"etc/image": b"new"})])


@pytest.fixture
def read_only(tmp_path: Path, config: Path) -> Iterator[LocalService]:
    """A service with two images, of a filesystem that was remounted read-only, as after an error of the disk."""
    with mounted("ext4", tmp_path) as disk:
        service = LocalService(disk.path / "store", config)
        for ref, one in (("local/here:1", HERE), ("local/other:1", OTHER)):
            service.put(one, ref)
        disk.remount("ro")
        yield service
        assert service.verify().problems == ()


READERS: dict[str, Callable[[ImageService], object]] = {
    "images": lambda service: service.list_images(),
    "inspect": lambda service: service.get_image("local/here:1"),
    "df": lambda service: service.disk_usage(),
    "pod ls": lambda service: service.list_pods(),
    "verify": lambda service: service.verify(),
    "pull of what is here": lambda service: service.pull_image("local/here:1"),
}
WRITERS: dict[str, Callable[[ImageService], object]] = {
    "rmi": lambda service: service.delete_image("local/here:1"),
    "tag": lambda service: service.tag_image("local/here:1", "local/new:1"),
    "gc": lambda service: service.collect_garbage(),
    "pod create": lambda service: service.create_pod("local/here:1", policy="never"),
    "unpack": lambda service: service.unpack("local/here:1", service.root.parent.parent / "files", policy="never"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_reads_goes_on(read: Callable[[ImageService], object], read_only: LocalService) -> None:
    before = read_only.get_image("local/here:1")
    assert read(read_only) is not None
    assert read_only.get_image("local/here:1") == before  # also when it was last used


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_writes_says_that_it_cannot(write: Callable[[ImageService], object], read_only: LocalService) -> None:
    with pytest.raises(DiskError, match="the filesystem is read-only") as raised:
        write(read_only)

    assert (raised.value.code, raised.value.exit_status) == ("read-only", 10)
    assert not (read_only.root.parent.parent / "files").exists()


def test_a_pull_says_that_it_cannot(read_only: LocalService, scripted: ScriptedRegistry) -> None:
    with pytest.raises(DiskError, match="the filesystem is read-only"):
        read_only.pull_image(scripted.serve("some/image", "1", NEW))

    assert scripted.requests == ()


def test_a_filesystem_without_hard_links_is_named_as_such(
    tmp_path: Path, config: Path, scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # what vfat answers

    monkeypatch.setattr(os, "link", no_links)
    service = LocalService(tmp_path / "store", config)

    with pytest.raises(DiskError, match="has no hard links") as raised:
        service.pull_image(scripted.serve("some/image", "1", NEW))

    assert (raised.value.code, raised.value.exit_status) == ("no-hard-links", 10)
    assert service.list_images() == []
