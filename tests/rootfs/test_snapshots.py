from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from micropod_img import progress
from micropod_img.digest import sha256_of
from micropod_img.errors import IntegrityError, MicropodError, UnsafeError
from micropod_img.rootfs import syscalls
from micropod_img.rootfs.chain import ChainId
from micropod_img.rootfs.drivers import choice
from micropod_img.rootfs.drivers.choice import DriverSelection
from micropod_img.rootfs.drivers.copies import CopyDriver
from micropod_img.rootfs.leases import lease
from micropod_img.rootfs.mountinfo import mount_points
from micropod_img.store.store import Store
from tests.rootfs.local_images import LocalService, gzip_layer
from tests.rootfs.tar_layers import header, tree
from tests.rootfs.unpacking import as_root
from tests.support.images import image
from tests.support.layers import Entry, layer, random_layer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.layers import Compression
    from tests.support.scripted import ScriptedRegistry

pytestmark = as_root

CREATE = (
    "import sys; from micropod_img import ImageService, locks\n"
    "locks.SAY_AFTER_SECONDS = float(sys.argv[3])\n"
    "pod = ImageService(sys.argv[1]).create_pod(sys.argv[2], policy='never',\n"
    "    progress=lambda event: print(type(event).__name__, getattr(event, 'subject', ''), flush=True))\n"
)


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    made = LocalService(store_root)
    yield made
    made.end()


def create_in_child(root: Path, ref: str, *, said_after: float = 60) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", CREATE, str(root), ref, str(said_after)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def snapshots(root: Path) -> set[str]:
    return {path.name for path in (root / "snapshots").iterdir() if len(path.name) == 64}


def test_a_layer_is_unpacked_once_for_all_images_that_share_the_chain(
    service: LocalService, unpacked: list[str]
) -> None:
    base, one, two = [Entry("base")], [Entry("one")], [Entry("two")]
    for layers in ([base], [base, one], [base, two], [base, one, two]):
        service.create_pod(service.put_layers(*layers), policy="never")
    assert len(unpacked) == 4
    service.create_pod(service.put_layers(two, base), policy="never")
    assert len(unpacked) == 6


def test_the_same_layer_twice_in_one_image_is_applied_twice(service: LocalService, unpacked: list[str]) -> None:
    twice = [Entry("a")]
    pod = service.create_pod(service.put_layers(twice, [Entry(".wh.a")], twice), policy="never")
    assert set(tree(pod.rootfs)) == {b"a"}
    assert len(unpacked) == 3


@pytest.mark.parametrize("docker", [False, True], ids=["OCI", "Docker schema 2"])
@pytest.mark.parametrize("compression", ["none", "gzip", "gzip-members", "estargz", "zstd", "zstd-chunked"])
def test_every_kind_of_image_makes_a_pod_and_a_plain_directory(
    compression: Compression,
    docker: bool,  # noqa: FBT001 - a parameter of the table
    service: LocalService,
    tmp_path: Path,
) -> None:
    layers = [layer({f"f{number}": b"1"}, compression=compression, docker=docker) for number in range(2)]
    ref = service.put(image(layers, docker=docker))
    pod = tree(service.create_pod(ref, policy="never").rootfs)
    plain = tree(service.unpack(ref, tmp_path / "plain", policy="never"))
    assert pod == plain
    assert {b"f0", b"f1"} <= set(pod)


def test_a_layer_that_the_gate_refuses_leaves_nothing_of_itself(service: LocalService, store_root: Path) -> None:
    ref = service.put_layers([Entry("fine")], [header(b".wh..", b"0")])
    with pytest.raises(UnsafeError):
        service.create_pod(ref, policy="never")
    assert len(snapshots(store_root)) == 1
    assert list((store_root / "tmp").iterdir()) == []
    assert service.list_pods() == []


def test_a_layer_with_another_diff_id_is_refused(service: LocalService, store_root: Path) -> None:
    made = layer({"a": b"1"})
    ref = service.put(image([made], diff_ids=[sha256_of(b"other")]))
    with pytest.raises(IntegrityError):
        service.create_pod(ref, policy="never")
    assert snapshots(store_root) == set()


def test_a_damaged_layer_is_refused(service: LocalService, store_root: Path) -> None:
    made = random_layer(3000)
    ref = service.put(image([made]))
    path = store_root / "images/blobs/sha256" / made.digest.partition(":")[2]
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(content)
    with pytest.raises(MicropodError) as caught:
        service.create_pod(ref, policy="never")
    assert caught.value.exit_status == 7
    assert snapshots(store_root) == set()


def test_two_processes_unpack_each_layer_once_and_the_one_that_waits_says_so(
    service: LocalService, store_root: Path
) -> None:
    big = [Entry(f"f{number}", b"x" * 100) for number in range(20_000)]
    refs = [service.put_layers(big, [Entry(name)]) for name in ("one", "two")]
    service.driver_choice()
    children = [create_in_child(store_root, ref, said_after=0) for ref in refs]
    outputs = [child.communicate(timeout=60) for child in children]
    assert [error for _, error in outputs] == [b"", b""]
    assert sum(b"Waiting snapshot sha256:" in said for said, _ in outputs) == 1
    assert len(snapshots(store_root)) == 3
    assert all(len(tree(pod.rootfs)) == 20_001 for pod in service.list_pods())
    assert list((store_root / "tmp").iterdir()) == []


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.4])
def test_a_process_killed_in_the_middle_leaves_nothing_that_is_used(
    delay: float, service: LocalService, store_root: Path
) -> None:
    layers = [[Entry(f"d{part}/f{number}", b"x" * 500) for number in range(4000)] for part in range(3)]
    ref = service.put_layers(*layers)
    service.driver_choice()
    with create_in_child(store_root, ref) as child:
        deadline = time.monotonic() + 20
        while not any((store_root / "tmp").glob("snapshot-*")):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.005)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
    for pod in service.list_pods():
        assert len(tree(service.mount_pod(pod.id).rootfs)) == 12_003
    pod = service.create_pod(ref, policy="never")
    assert len(tree(pod.rootfs)) == 12_003
    service.collect_garbage()
    deadline = time.monotonic() + 5
    while any((store_root / "tmp").iterdir()) and time.monotonic() < deadline:  # umoci may be ending still
        service.collect_garbage()
    assert list((store_root / "tmp").iterdir()) == []
    mounted = [str(path) for path in mount_points() if path.is_relative_to(store_root)]
    assert all("/pods/" in path for path in mounted)


@pytest.fixture
def no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be mounted."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(syscalls, "FilesystemContext", refuse)
    monkeypatch.setattr(syscalls, "mount", refuse)


@pytest.mark.usefixtures("no_mounts")
@pytest.mark.parametrize("is_here", [True, False], ids=["an image that is here", "an image that is pulled"])
def test_notices_say_why_a_lesser_driver_is_used(
    *, is_here: bool, store_root: Path, scripted: ScriptedRegistry
) -> None:
    service = LocalService(store_root)
    told: list[progress.Event] = []
    made = image([gzip_layer([Entry("a")])])
    ref = service.put(made) if is_here else scripted.serve("some/image", "v1", made)
    pod = service.create_pod(ref, progress=told.append)
    assert pod.driver == "copy"
    choice = service.driver_choice()
    assert [name for name, _ in choice.rejected] == ["overlay", "fuse-overlayfs"]
    notices = [event.message for event in told if isinstance(event, progress.Notice)]
    assert len(notices) == 1
    assert "Operation not permitted" in notices[0]
    assert "copy" in notices[0]
    service.end()


def test_no_better_driver_is_taken_while_somebody_works_with_the_snapshots(
    store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, service = Store(store_root), LocalService(store_root)
    with monkeypatch.context() as lesser:
        lesser.setattr(choice, "drivers", lambda _: (CopyDriver(),))
        chain = service.create_pod(service.put_layers([Entry("a")]), policy="never").chain_ids
        service.end()
    DriverSelection(store).rewrite("copy")  # as if it had been chosen on another kernel
    with store.stage("pod") as staging:
        lease(store.layout, staging, map(ChainId, chain))
        assert service.driver_choice().driver == "copy"
        assert store.layout.snapshot(chain[0]).exists()
    assert service.driver_choice().driver == "overlay"
    assert not store.layout.snapshot(chain[0]).exists()
