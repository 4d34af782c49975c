"""A disk that is full, or has no inodes left: what is there stays whole, and what frees space works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import DiskError
from micropod_img.progress import FetchStarted
from micropod_img.pull import image_pull
from micropod_img.store.store import IndexTransaction
from tests.disk.conftest import HERE, OTHER
from tests.support import stores
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.meanwhile import Meanwhile
from tests.support.small_filesystems import KINDS, MIB
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from micropod_img.progress import Event
    from tests.rootfs.local_images import LocalService
    from tests.support.scripted import ScriptedRegistry
    from tests.support.small_filesystems import SmallFilesystem

NEW = image([random_layer(MIB, seed=3), layer({"etc/image": b"new"})])


# xfs and btrfs make inodes as they need them.
SHORTAGES = [*((kind, "bytes") for kind in KINDS), ("tmpfs", "inodes"), ("ext4", "inodes")]
on_a_full_disk = pytest.mark.parametrize(("disk", "shortage"), SHORTAGES, indirect=["disk"])
on_some_disks = pytest.mark.parametrize("disk", ["tmpfs", "ext4"], indirect=True)


@pytest.fixture
def full(disk: SmallFilesystem, shortage: str, service: LocalService) -> SmallFilesystem:
    """The filesystem with not a byte, or not an inode, left."""
    assert service
    if shortage == "bytes":
        disk.fill()
    else:
        disk.take_inodes()
    return disk


def listed(service: LocalService) -> set[str]:
    return {one.digest for one in service.list_images()}


def reserved(service: LocalService) -> list[str]:
    return sorted(path.name for path in (service.root / "reserve").iterdir())


# --- what frees space


@on_a_full_disk
@pytest.mark.usefixtures("full")
def test_an_image_can_be_removed(service: LocalService) -> None:
    removed = service.delete_image("local/other:1")

    assert removed.freed_bytes > 2 * MIB
    assert listed(service) == {HERE.digest}
    assert not {OTHER.digest, OTHER.layers[0].digest} & stores.blobs(service.root)


@on_a_full_disk
@pytest.mark.usefixtures("full")
def test_everything_can_be_removed_one_after_the_other(service: LocalService) -> None:
    for ref in ("local/other:1", "local/here:1"):
        service.delete_image(ref)

    assert stores.blobs(service.root) == set()


def test_pods_and_garbage_can_be_removed(service: LocalService, disk: SmallFilesystem) -> None:
    pod = service.create_pod("local/other:1", policy="never")
    service.delete_image("local/other:1", force=True)
    disk.fill()

    service.remove_pod(pod.id)
    collected = service.collect_garbage()

    assert len(collected.removed) == len(OTHER.layers)  # of its snapshots; its blobs went with the image
    assert service.list_pods() == []


def test_what_is_reserved_for_that_is_set_aside_again(service: LocalService, disk: SmallFilesystem) -> None:
    before = reserved(service)
    disk.fill()

    service.delete_image("local/other:1")

    assert len(before) > 0

    def set_aside_again() -> bool:
        service.collect_garbage()  # xfs frees what is removed a little later
        return reserved(service) == before

    wait_until(set_aside_again)


@on_some_disks
def test_what_needs_space_does_not_take_what_is_reserved(service: LocalService, disk: SmallFilesystem) -> None:
    disk.fill()

    with pytest.raises(DiskError, match=r"the disk is full|needs 1048576 bytes more") as raised:
        service.create_pod("local/here:1", policy="never")

    assert raised.value.code == "disk-full"
    assert reserved(service)
    assert service.list_pods() == []


@on_a_full_disk
@pytest.mark.usefixtures("full")
def test_what_only_reads_goes_on(service: LocalService) -> None:
    assert listed(service) == {HERE.digest, OTHER.digest}
    assert service.get_image("local/here:1").digest == HERE.digest
    assert service.pull_image("local/here:1").digest == HERE.digest
    assert service.disk_usage().image_bytes > 3 * MIB
    assert service.list_pods() == []
    assert service.verify().problems == ()


@on_a_full_disk
@pytest.mark.usefixtures("full")
def test_a_tag_is_there_or_not_and_the_index_whole(service: LocalService) -> None:
    def tag_often() -> None:  # some filesystems have room left for a name or two
        for number in range(100):
            service.tag_image("local/here:1", f"local/new:{number}")

    with pytest.raises(DiskError, match="the disk is full"):
        tag_often()

    assert listed(service) == {HERE.digest, OTHER.digest}


# --- a pull, at each of its steps


STEPS: dict[str, tuple[type, str]] = {
    "configurations": (image_pull.ImagePull, "_read_configs"),
    "the index": (IndexTransaction, "replace"),
}


@on_some_disks
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fills_up_before_a_step_of_a_pull_leaves_what_was_there(
    step: str,
    service: LocalService,
    disk: SmallFilesystem,
    scripted: ScriptedRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Meanwhile(monkeypatch).before(*STEPS[step], disk.fill)

    with pytest.raises(DiskError) as raised:
        service.pull_image(scripted.serve("some/image", "1", NEW))

    monkeypatch.undo()
    assert (raised.value.code, raised.value.exit_status) == ("disk-full", 10)
    assert listed(service) == {HERE.digest, OTHER.digest}
    (disk.path / "filler").unlink()
    assert service.pull_image(scripted.reference("some/image", "1")).digest == NEW.digest


@on_some_disks
def test_a_pull_that_has_no_room_from_the_beginning_says_so(
    service: LocalService, disk: SmallFilesystem, scripted: ScriptedRegistry
) -> None:
    disk.fill()

    with pytest.raises(DiskError) as raised:
        service.pull_image(scripted.serve("some/image", "1", NEW))

    assert (raised.value.code, raised.value.exit_status) == ("disk-full", 10)


@on_some_disks
def test_a_disk_that_fills_up_while_layers_arrive_leaves_what_was_there(
    service: LocalService, disk: SmallFilesystem, scripted: ScriptedRegistry
) -> None:
    def fill(event: Event) -> None:
        if isinstance(event, FetchStarted):
            disk.fill()

    large = image([random_layer(4 * MIB, seed=4)])

    with pytest.raises(DiskError) as raised:
        service.pull_image(scripted.serve("some/image", "1", large), progress=fill)

    assert (raised.value.code, raised.value.exit_status) == ("disk-full", 10)
    assert listed(service) == {HERE.digest, OTHER.digest}
