from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.errors import (
    ConflictError,
    DiskError,
    IntegrityError,
    MicropodError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from micropod_img.rootfs import syscalls
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import tree
from tests.rootfs.unpacking import as_root
from tests.rootfs.user_namespaces import run_python
from tests.store.test_trees import make_deep
from tests.support.images import image
from tests.support.layers import Entry, layer
from tests.support.processes import require_program, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = as_root


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    made = LocalService(store_root)
    yield made
    made.end()


@pytest.fixture
def ref(service: LocalService) -> str:
    return service.put_layers([Entry("a", b"1")], [Entry("b", b"2")], ref="example.com/app:1")


def test_a_pod_says_what_it_is(service: LocalService, ref: str, store_root: Path) -> None:
    pod = service.create_pod(ref, pod_id="web-1", policy="never")
    assert (pod.id, pod.ref, pod.image_digest) == ("web-1", ref, service.get_image(ref).digest)
    assert pod.rootfs == store_root / "pods/web-1/rootfs"
    assert (pod.mounted, pod.bundle, pod.read_only, len(pod.chain_ids)) == (True, None, False, 2)
    assert service.get_pod("web-1") == pod
    assert service.list_pods() == [pod]


def test_an_id_that_nobody_chose_is_short_and_unique(service: LocalService, ref: str) -> None:
    ids = {service.create_pod(ref, policy="never").id for _ in range(5)}
    assert len(ids) == 5
    assert all(len(one) == 12 and one.isalnum() for one in ids)


@pytest.mark.parametrize("pod_id", ["", ".", "..", "-a", ".a", "a/b", "a b", "a\n", "a..b", "é", "a" * 129, "../x"])
def test_what_is_no_pod_id_is_refused_everywhere(pod_id: str, service: LocalService, ref: str) -> None:
    for use in (
        lambda: service.create_pod(ref, pod_id=pod_id, policy="never"),
        lambda: service.get_pod(pod_id),
        lambda: service.remove_pod(pod_id),
        lambda: service.mount_pod(pod_id),
        lambda: service.unmount_pod(pod_id),
    ):
        with pytest.raises(UsageError) as caught:
            use()
        assert caught.value.code == "invalid-pod-id"


@pytest.mark.parametrize("pod_id", ["a", "A.b_c-d", "0", "a" * 128])
def test_every_other_id_names_a_pod(pod_id: str, service: LocalService, ref: str) -> None:
    assert service.create_pod(ref, pod_id=pod_id, policy="never").id == pod_id


def test_an_id_names_one_pod(service: LocalService, ref: str) -> None:
    first = service.create_pod(ref, pod_id="one", policy="never")
    (first.rootfs / "mine").touch()
    with pytest.raises(ConflictError) as caught:
        service.create_pod(ref, pod_id="one", policy="never")
    assert caught.value.code == "pod-exists"
    assert (first.rootfs / "mine").exists()


def test_what_cannot_become_a_pod_is_refused_before_anything_is_pulled(service: LocalService, ref: str) -> None:
    service.create_pod(ref, pod_id="taken", policy="never")
    nowhere = "127.0.0.1:1/nothing/there"
    with pytest.raises(ConflictError):
        service.create_pod(nowhere, policy="always", pod_id="taken")
    with pytest.raises(UsageError):
        service.create_pod(nowhere, policy="always", args=["/a"])


def test_an_unknown_pod_is_not_found(service: LocalService) -> None:
    for use in (service.get_pod, service.remove_pod, service.mount_pod, service.unmount_pod):
        with pytest.raises(NotFoundError):
            use("nobody")


def test_a_removed_pod_leaves_nothing(service: LocalService, ref: str, store_root: Path) -> None:
    pod = service.create_pod(ref, policy="never")
    (pod.rootfs / "dir").mkdir(mode=0)
    service.remove_pod(pod.id)
    assert list((store_root / "pods").iterdir()) == list((store_root / "tmp").iterdir()) == []
    assert service.list_pods() == []


def test_a_pod_whose_removal_cannot_be_made_durable_is_not_called_unknown(
    service: LocalService, ref: str, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = service.create_pod(ref, policy="never")
    sync = fsutil.fsync_directory

    def full(path: Path) -> None:
        if path == store_root / "pods":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        sync(path)

    monkeypatch.setattr(fsutil, "fsync_directory", full)
    with pytest.raises(DiskError):
        service.remove_pod(pod.id)
    assert service.list_pods() == []


def test_a_pod_that_is_deeper_than_python_can_go_is_removed(service: LocalService, ref: str, store_root: Path) -> None:
    pod = service.create_pod(ref, policy="never")
    make_deep(pod.rootfs / "deep")
    service.remove_pod(pod.id)
    assert list((store_root / "tmp").iterdir()) == []


def test_a_busy_pod_is_neither_unmounted_nor_removed_and_the_error_says_by_whom(
    service: LocalService, ref: str
) -> None:
    pod = service.create_pod(ref, policy="never")
    with subprocess.Popen(["/usr/bin/sleep", "60"], cwd=pod.rootfs) as holder:
        for use in (service.unmount_pod, service.remove_pod):
            with pytest.raises(ConflictError) as caught:
                use(pod.id)
            assert caught.value.code == "mount-busy"
            assert f"process {holder.pid} (sleep, its working directory)" in caught.value.message
        assert service.get_pod(pod.id).mounted
        holder.kill()
    service.remove_pod(pod.id)


def test_a_pod_that_a_container_runs_on_is_busy_though_it_has_a_mount_of_its_own(
    service: LocalService, ref: str
) -> None:
    pod = service.create_pod(ref, policy="never")
    script = f"mount --bind {pod.rootfs} /mnt && umount {pod.rootfs} && cd /mnt && echo ready && exec sleep 60"
    unshare = require_program("unshare", package="util-linux")
    with subprocess.Popen([unshare, "--mount", "/bin/sh", "-c", script], stdout=subprocess.PIPE) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == b"ready\n"
        with pytest.raises(ConflictError, match=f"process {container.pid}"):
            service.remove_pod(pod.id)
        container.kill()
    service.remove_pod(pod.id)


def test_a_pod_outlives_the_loss_of_its_mount(service: LocalService, ref: str, store_root: Path) -> None:
    pod = service.create_pod(ref, pod_id="old", policy="never")
    (pod.rootfs / "written").write_bytes(b"3")
    syscalls.umount(str(pod.rootfs))  # as a reboot would
    after = LocalService(store_root)
    assert [found.mounted for found in after.list_pods()] == [False]
    assert tree(pod.rootfs) == {}
    assert after.mount_pod("old").mounted
    assert after.mount_pod("old").mounted
    assert set(tree(pod.rootfs)) == {b"a", b"b", b"written"}


def test_a_tag_that_moves_changes_nothing_for_a_pod(service: LocalService, ref: str) -> None:
    pod = service.create_pod(ref, policy="never")
    service.put_layers([Entry("other")], ref=ref)
    service.collect_garbage()
    service.unmount_pod(pod.id)
    assert service.mount_pod(pod.id).image_digest != service.get_image(ref).digest
    assert set(tree(pod.rootfs)) == {b"a", b"b"}


def test_an_image_in_use_is_removed_by_force_only_and_its_snapshots_stay(
    service: LocalService, ref: str, store_root: Path
) -> None:
    pods = sorted(service.create_pod(ref, policy="never").id for _ in range(2))
    with pytest.raises(ConflictError) as caught:
        service.delete_image(ref)
    assert caught.value.code == "image-in-use"
    assert all(pod in caught.value.message for pod in pods)
    assert service.get_image(ref)
    service.delete_image(ref, force=True)
    service.collect_garbage()
    for pod in pods:
        service.unmount_pod(pod)
        assert set(tree(service.mount_pod(pod).rootfs)) == {b"a", b"b"}
        service.remove_pod(pod)
    assert service.collect_garbage().freed_bytes > 0
    assert snapshots(store_root) == set()


def test_one_of_two_names_of_an_image_in_use_can_go(service: LocalService, ref: str) -> None:
    service.tag_image(ref, "example.com/app:2")
    service.create_pod(ref, policy="never")
    service.delete_image(ref)
    with pytest.raises(ConflictError):
        service.delete_image("example.com/app:2")


def test_snapshots_that_no_image_and_no_pod_needs_are_removed_with_the_image(
    service: LocalService, ref: str, store_root: Path
) -> None:
    other = service.put_layers([Entry("a", b"1")], [Entry("c", b"3")])
    for one in (ref, other):
        service.remove_pod(service.create_pod(one, policy="never").id)
    assert len(snapshots(store_root)) == 3
    removed = service.delete_image(other)
    assert len(snapshots(store_root)) == 2
    assert removed.freed_bytes > 0
    assert set(tree(service.create_pod(ref, policy="never").rootfs)) == {b"a", b"b"}


def test_a_mounted_image_keeps_its_snapshots(service: LocalService, ref: str, tmp_path: Path) -> None:
    target = tmp_path / "seen"
    target.mkdir()
    service.mount_image(ref, target, policy="never")
    try:
        service.delete_image(ref)
        service.collect_garbage()
        assert set(tree(target)) == {b"a", b"b"}
        with pytest.raises(ConflictError):
            service.mount_image(service.put_layers([Entry("x")]), target, policy="never")
    finally:
        service.unmount_image(target)
    with pytest.raises(NotFoundError):
        service.unmount_image(target)


def test_a_mount_of_somebody_else_is_never_unmounted(service: LocalService, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        service.unmount_image("/")
    with pytest.raises(NotFoundError):
        service.unmount_image(tmp_path)


def test_a_corrupt_record_keeps_gc_from_guessing_and_the_pod_can_be_removed(
    service: LocalService, ref: str, store_root: Path
) -> None:
    pod = service.create_pod(ref, policy="never")
    record = store_root / "pods" / pod.id / "pod.json"
    document = json.loads(record.read_bytes())
    for damage in ("{", json.dumps(document | {"chain_ids": ["x"]}), json.dumps(document | {"created_at": "now"})):
        record.write_text(damage)
        with pytest.raises(IntegrityError):
            service.collect_garbage()
        with pytest.raises(IntegrityError):
            service.get_pod(pod.id)
    service.remove_pod(pod.id)
    service.collect_garbage()


def test_what_fails_after_the_mount_takes_the_pod_back(service: LocalService, store_root: Path) -> None:
    ref = service.put(image([layer({"a": b"1"})], config={"config": {"User": "nobody-here", "Cmd": ["/a"]}}))
    with pytest.raises(MicropodError):
        service.create_pod(ref, policy="never", bundle=True)
    assert list((store_root / "pods").iterdir()) == []
    assert str(store_root) not in run("cat", "/proc/self/mountinfo").stdout


def left_by_a_killed_process(service: LocalService, ref: str) -> Path:
    """Return the directory of a pod whose maker was killed when all was done but its record."""
    pod = service.create_pod(ref, pod_id="half", policy="never")
    (pod.rootfs.parent / "pod.json").rename(pod.rootfs.parent / "pod.json.new")
    return pod.rootfs.parent


def test_a_pod_whose_maker_was_killed_is_not_there(service: LocalService, ref: str) -> None:
    left_by_a_killed_process(service, ref)
    assert service.list_pods() == []
    for use in (service.get_pod, service.mount_pod, service.unmount_pod):
        with pytest.raises(NotFoundError):
            use("half")
    service.collect_garbage()


@pytest.mark.parametrize("command", ["create", "create with its id", "gc"])
def test_what_is_left_of_it_goes_with_the_next_command(
    command: str, service: LocalService, ref: str, store_root: Path
) -> None:
    left = left_by_a_killed_process(service, ref)
    match command:
        case "create":
            service.remove_pod(service.create_pod(ref, policy="never").id)
        case "create with its id":
            assert service.create_pod(ref, pod_id="half", policy="never").mounted
            service.remove_pod("half")
        case _:
            service.collect_garbage()
    assert not left.exists()
    assert list((store_root / "tmp").iterdir()) == []
    assert str(store_root) not in run("cat", "/proc/self/mountinfo").stdout


def test_a_pod_in_the_making_is_nobody_elses(service: LocalService, ref: str) -> None:
    left = left_by_a_killed_process(service, ref)
    descriptor = os.open(left, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    service.collect_garbage()
    assert (left / "rootfs/a").exists()
    with pytest.raises(ConflictError):
        service.create_pod(ref, pod_id="half", policy="never")
    os.close(descriptor)
    service.collect_garbage()


def test_what_is_left_of_a_pod_and_in_use_keeps_nobody_from_their_work(service: LocalService, ref: str) -> None:
    left = left_by_a_killed_process(service, ref)
    with subprocess.Popen(["/usr/bin/sleep", "60"], cwd=left / "rootfs") as holder:
        service.remove_pod(service.create_pod(ref, policy="never").id)
        assert (left / "rootfs/a").exists()
        holder.kill()
    service.collect_garbage()
    assert not left.exists()


def test_a_bundle_has_a_configuration_beside_its_root_filesystem(service: LocalService, ref: str) -> None:
    pod = service.create_pod(ref, pod_id="b", policy="never", bundle=True, args=["/a", "--flag"], read_only=True)
    assert pod.bundle == pod.rootfs.parent
    config = json.loads((pod.bundle / "config.json").read_bytes())
    assert config["root"] == {"path": "rootfs", "readonly": True}
    assert config["process"]["args"][-2:] == ["/a", "--flag"]
    assert service.get_pod("b").bundle == pod.bundle


def test_arguments_without_a_bundle_are_refused(service: LocalService, ref: str) -> None:
    with pytest.raises(UsageError):
        service.create_pod(ref, policy="never", args=["/a"])


def test_pods_of_a_driver_that_is_gone_are_not_touched_by_another(
    service: LocalService, ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from micropod_img.rootfs.drivers import choice  # noqa: PLC0415 - its one user here
    from micropod_img.rootfs.drivers.copies import CopyDriver  # noqa: PLC0415 - the same

    pod = service.create_pod(ref, policy="never")
    with monkeypatch.context() as patched:
        patched.setattr(choice, "drivers", lambda _: (CopyDriver(),))
        with pytest.raises(UnsupportedError) as caught:
            service.create_pod(ref, policy="never")
        assert caught.value.code == "driver-gone"
        service.remove_pod(pod.id)
        assert service.create_pod(ref, policy="never").driver == "copy"


def test_many_processes_make_and_remove_pods_at_once(service: LocalService, ref: str, store_root: Path) -> None:
    code = (
        "import sys; from micropod_img import ImageService\n"
        "service = ImageService(sys.argv[1])\n"
        "for _ in range(6):\n"
        "    pod = service.create_pod(sys.argv[2], policy='never')\n"
        "    assert sorted(p.name for p in pod.rootfs.iterdir()) == ['a', 'b']\n"
        "    service.list_pods(); service.collect_garbage(); service.remove_pod(pod.id)\n"
    )
    argv = [sys.executable, "-c", code, str(store_root), ref]
    children = [subprocess.Popen(argv, stderr=subprocess.PIPE) for _ in range(4)]
    assert [child.communicate(timeout=60)[1] for child in children] == [b""] * 4
    assert service.list_pods() == []
    assert list((store_root / "tmp").iterdir()) == []


def test_root_of_a_user_namespace_makes_pods(store_root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.rootfs.local_images import LocalService\n"
        "from tests.support.layers import Entry, whiteout\n"
        "service = LocalService(Path(sys.argv[1]))\n"
        "lower = [Entry('a'), Entry('d/x', uid=1000), Entry('d/y')]\n"
        "ref = service.put_layers(lower, [Entry('d/.wh..wh..opq'), Entry('d/z'), whiteout('a')])\n"
        "pod = service.create_pod(ref, policy='never')\n"
        "assert pod.driver == 'overlay-userxattr', pod\n"
        "assert sorted(str(p.relative_to(pod.rootfs)) for p in pod.rootfs.rglob('*')) == ['d', 'd/z']\n"
        "service.end()\n"
    )
    assert run_python(code, store_root) == 0


def snapshots(root: Path) -> set[str]:
    return {path.name for path in (root / "snapshots").iterdir() if len(path.name) == 64}
