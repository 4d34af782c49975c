"""`verify --repair` on snapshots and pods."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from micropod_img.rootfs.chain import ChainId
from micropod_img.rootfs.drivers.overlay import OverlayDriver
from micropod_img.rootfs.leases import lease
from micropod_img.rootfs.umoci import UnpackRoot
from micropod_img.store.store import Store
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import tree
from tests.rootfs.unpacking import as_root
from tests.support.layers import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from micropod_img.models import Pod
    from micropod_img.problems import Verification
    from micropod_img.progress import Event
    from micropod_img.rootfs.drivers.driver import PodPaths
    from micropod_img.rootfs.layer_blobs import LayerBlob

pytestmark = as_root

BASE, TOP = [Entry("motd", content=b"base"), Entry("app", content=b"app")], [Entry("motd", content=b"top")]
OTHER = [Entry("other", content=b"other")]


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    made = LocalService(store_root)
    yield made
    made.end()


@pytest.fixture
def pod(service: LocalService) -> Pod:
    """A pod that is not mounted and has written a file, beside one of another image."""
    service.create_pod(service.put_layers(OTHER), policy="never", pod_id="other")
    made = service.create_pod(service.put_layers(BASE, TOP, ref="local/app:1"), policy="never", pod_id="it")
    (made.rootfs / "written").write_text("by the pod")
    return service.unmount_pod("it")


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch, pod: Pod) -> list[str]:
    """The diff IDs of layers that umoci was given since the pods were made."""
    assert pod
    seen: list[str] = []
    real = UnpackRoot.unpack_layer

    def counting(self: UnpackRoot, blob: LayerBlob, **arguments: object) -> None:
        seen.append(blob.diff_id)
        real(self, blob, **arguments)  # type: ignore[arg-type]  # its only one is handed on as it is

    monkeypatch.setattr(UnpackRoot, "unpack_layer", counting)
    return seen


def snapshot(service: LocalService, pod: Pod, position: int) -> Path:
    return Store(service.root).layout.snapshot(pod.chain_ids[position])


def done(found: Verification) -> list[str]:
    return [one.code for one in found.repaired]


def expect_whole(service: LocalService) -> None:
    """Mount the pod: its files are those of its image, and what it wrote."""
    files = tree(service.mount_pod("it").rootfs)
    assert {b"motd", b"app", b"written"} <= set(files)
    assert (Store(service.root).layout.pod("it") / "rootfs/motd").read_bytes() == b"top"
    assert (Store(service.root).layout.pod("it") / "rootfs/app").read_bytes() == b"app"


BAD: dict[str, tuple[int, Callable[[Path], object]]] = {
    "a file changed": (0, lambda place: (place / "fs/app").write_bytes(b"ppa")),
    "a file removed": (0, lambda place: (place / "fs/app").unlink()),
    "a file added": (1, lambda place: (place / "fs/new").touch()),
    "no files": (1, lambda place: (place / "fs").rename(place / "elsewhere")),
    "no record of its parent": (1, lambda place: (place / "parent").unlink()),
    "another parent": (1, lambda place: (place / "parent").write_text("")),
}


@pytest.mark.parametrize(("position", "damage"), BAD.values(), ids=BAD)
def test_a_bad_snapshot_is_made_again_and_no_other(
    position: int, damage: Callable[[Path], object], service: LocalService, pod: Pod, unpacked: list[str]
) -> None:
    damage(snapshot(service, pod, position))
    found = service.repair()
    assert (found.problems, done(found)) == ((), ["remade-snapshot"])
    assert len(unpacked) == 1
    expect_whole(service)
    assert list((service.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("position", [0, 1])
def test_a_missing_snapshot_is_made_again_and_no_other(
    position: int, service: LocalService, pod: Pod, unpacked: list[str]
) -> None:
    snapshot(service, pod, position).rename(service.root.parent / "gone")
    found = service.repair()
    assert found.problems == ()
    assert set(done(found)) == {"completed-chain"}
    assert len(unpacked) == 1
    expect_whole(service)


def test_a_snapshot_that_is_in_use_stays_and_is_told_of(service: LocalService, pod: Pod, unpacked: list[str]) -> None:
    service.mount_pod(pod.id)
    (snapshot(service, pod, 0) / "fs/app").write_bytes(b"ppa")
    events: list[Event] = []
    found = service.repair(progress=events.append)
    assert ([one.code for one in found.problems], done(found)) == (["changed-snapshot"], [])
    assert any("is in use by pod it: unmount that" in getattr(event, "message", "") for event in events)
    service.unmount_pod(pod.id)
    assert service.repair().problems == ()
    assert len(unpacked) == 1
    expect_whole(service)


def test_a_snapshot_of_a_pod_that_is_just_being_mounted_stays(
    service: LocalService, pod: Pod, unpacked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (snapshot(service, pod, 0) / "fs/app").write_bytes(b"ppa")
    real, found = OverlayDriver.mount_pod, []

    def repaired_meanwhile(self: OverlayDriver, paths: PodPaths, lowers: Sequence[Path], *, read_only: bool) -> None:
        found.append(LocalService(service.root).repair())
        real(self, paths, lowers, read_only=read_only)

    monkeypatch.setattr(OverlayDriver, "mount_pod", repaired_meanwhile)
    service.mount_pod("it")
    assert [done(one) for one in found] == [[]]
    assert unpacked == []


def test_a_bad_snapshot_of_an_image_that_is_gone_stays_for_its_pod(service: LocalService, pod: Pod) -> None:
    service.delete_images([pod.ref], force=True)
    (snapshot(service, pod, 0) / "fs/app").write_bytes(b"ppa")
    events: list[Event] = []
    found = service.repair(progress=events.append)
    assert [one.code for one in found.problems] == ["changed-snapshot"]
    assert any("pull the image of pod it" in getattr(event, "message", "") for event in events)
    service.put_layers(BASE, TOP, ref="local/app:1")
    assert service.repair().problems == ()
    expect_whole(service)


def test_a_bad_snapshot_that_nothing_needs_is_removed(service: LocalService, pod: Pod) -> None:
    service.remove_pod(pod.id)
    for path in (service.root / "images/index.json", *(service.root / "images/blobs/sha256").iterdir()):
        path.unlink()
    (snapshot(service, pod, 1) / "fs/motd").touch()
    found = service.repair()
    assert found.problems == ()
    assert done(found) == ["rebuilt-index", "removed-snapshot"]
    assert not snapshot(service, pod, 1).exists()


def failing_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no layer be unpacked any more."""

    def failing(_self: UnpackRoot, _blob: LayerBlob, **_: object) -> None:
        raise error

    monkeypatch.setattr(UnpackRoot, "unpack_layer", failing)


def test_an_interrupt_leaves_the_snapshot_that_was_there(
    service: LocalService, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snapshot(service, pod, 0) / "fs/app").write_bytes(b"ppa")
    failing_with(KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        service.repair()
    assert (snapshot(service, pod, 0) / "fs/app").read_bytes() == b"ppa"


def test_a_snapshot_that_cannot_be_made_again_stays(
    service: LocalService, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snapshot(service, pod, 0) / "fs/app").write_bytes(b"ppa")
    failing_with(OSError(28, "No space left on device"), monkeypatch)
    found = service.repair()
    assert ([one.code for one in found.problems], done(found)) == (["changed-snapshot"], [])
    assert (snapshot(service, pod, 0) / "fs/app").read_bytes() == b"ppa"


@pytest.mark.parametrize("name", ["rootfs", "work"])
def test_a_directory_of_a_pod_in_which_nothing_is_kept_is_made_again(
    name: str, service: LocalService, pod: Pod
) -> None:
    (service.root / "pods" / pod.id / name).rename(service.root.parent / "gone")
    found = service.repair()
    assert (found.problems, done(found)) == ((), ["remade-directory"])
    expect_whole(service)


@pytest.mark.parametrize(
    "damage", [lambda place: (place / "upper").rename(place / "gone"), lambda place: os.truncate(place / "pod.json", 5)]
)
def test_what_a_pod_lost_for_good_stays_a_problem_until_it_is_removed(
    damage: Callable[[Path], object], service: LocalService, pod: Pod
) -> None:
    damage(service.root / "pods" / pod.id)
    (problem,) = service.repair().problems
    assert problem.pods == (pod.id,)
    service.remove_pod(pod.id)
    assert service.verify().problems == ()


def test_a_torn_record_of_the_driver_is_written_again_as_the_pods_say(service: LocalService, pod: Pod) -> None:
    (service.root / "snapshots/driver.json").write_bytes(b"{")
    found = service.repair()
    assert (found.problems, done(found)) == ((), ["rewrote-driver"])
    assert service.driver_choice().driver == pod.driver
    expect_whole(service)


def test_without_pods_a_torn_record_of_the_driver_takes_the_snapshots_along(
    service: LocalService, pod: Pod, unpacked: list[str]
) -> None:
    service.remove_pod("it")
    service.remove_pod("other")
    (service.root / "snapshots/driver.json").write_bytes(b"")
    found = service.repair()
    assert (found.problems, found.snapshots, done(found)) == ((), 0, ["removed-snapshots"])
    service.create_pod(pod.ref, policy="never")
    assert len(unpacked) == 2


def test_a_torn_record_of_the_driver_takes_no_snapshots_that_somebody_works_with(
    service: LocalService, pod: Pod
) -> None:
    service.remove_pod("it")
    service.remove_pod("other")
    (service.root / "snapshots/driver.json").write_bytes(b"")
    store = Store(service.root)
    with store.stage("pod") as staging:
        lease(store.layout, staging, map(ChainId, pod.chain_ids))
        found = service.repair()
    assert ([one.code for one in found.problems], done(found)) == (["corrupt-driver"], [])
    assert snapshot(service, pod, 1).exists()
