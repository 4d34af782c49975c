"""What is needed is compared with what is free before anything begins, as far as it can be known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.errors import DiskError
from tests.rootfs.local_images import LocalService
from tests.support import stores
from tests.support.images import image
from tests.support.layers import Entry, layer, random_layer
from tests.support.small_filesystems import MIB, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.scripted import ScriptedRegistry
    from tests.support.small_filesystems import SmallFilesystem

ZEROS = layer([Entry("zeros", bytes(30 * MIB))])
MANY = layer([Entry(f"many/{number}") for number in range(500)])


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallFilesystem]:
    """A filesystem of 24 MiB and 400 inodes."""
    with mounted("tmpfs", tmp_path) as made:
        yield made


@pytest.fixture
def there(small: SmallFilesystem, config: Path) -> Iterator[LocalService]:
    """A service whose store is there."""
    service = LocalService(small.path / "store", config)
    yield service
    service.end()
    assert stores.problems(service.root) == []


def test_an_image_with_more_bytes_than_are_free_is_not_begun(there: LocalService, scripted: ScriptedRegistry) -> None:
    ref = scripted.serve("some/image", "1", image([random_layer(10 * MIB, seed=number) for number in range(3)]))

    with pytest.raises(DiskError, match=r"needs \d+ bytes more, and .* has \d+ free") as raised:
        there.pull_image(ref)

    assert (raised.value.code, raised.value.stage) == ("disk-full", "plan")


def test_an_image_with_more_blobs_than_there_are_inodes_is_not_begun(
    there: LocalService, scripted: ScriptedRegistry
) -> None:
    layers = [layer({f"layer/{number}": b"x"}) for number in range(420)]

    with pytest.raises(DiskError, match=r"needs \d+ files more, and .* has inodes for \d+") as raised:
        there.pull_image(scripted.serve("some/image", "1", image(layers)))

    assert (raised.value.code, raised.value.stage) == ("disk-full", "plan")


def test_a_layer_that_has_no_room_unpacked_is_not_begun(there: LocalService) -> None:
    with pytest.raises(DiskError, match=r"needs \d+ bytes more"):
        there.create_pod(there.put(image([ZEROS])), policy="never")

    assert there.list_pods() == []


def test_a_layer_of_more_files_than_there_are_inodes_ends_with_the_disk(there: LocalService) -> None:
    with pytest.raises(DiskError, match="the disk is full"):
        there.create_pod(there.put(image([MANY])), policy="never")

    assert there.list_pods() == []


def test_room_is_looked_for_where_an_image_is_unpacked_to(small: SmallFilesystem, tmp_path: Path, config: Path) -> None:
    service = LocalService(tmp_path / "store", config)
    ref = service.put(image([ZEROS]))

    with pytest.raises(DiskError, match=rf"needs \d+ bytes more, and {small.path} has"):
        service.unpack(ref, small.path / "files", policy="never")

    assert list(small.path.iterdir()) == []
    service.unpack(ref, tmp_path / "files", policy="never")


def test_what_a_later_layer_takes_away_need_not_fit(small: SmallFilesystem, tmp_path: Path, config: Path) -> None:
    service = LocalService(tmp_path / "store", config)
    half = [Entry("half", bytes(14 * MIB))]
    ref = service.put(image([layer(half), layer([Entry(".wh.half")]), layer(half)]))

    service.unpack(ref, small.path / "files", policy="never")

    assert (small.path / "files" / "half").stat().st_size == 14 * MIB


def test_a_filesystem_without_a_number_of_inodes_has_as_many_as_one_likes(tmp_path: Path) -> None:
    with mounted("btrfs", tmp_path) as disk:
        assert fsutil.free_space(disk.path).files is None
        fsutil.require_space(disk.path, 1, files=1_000_000_000, for_what="it")
