"""`verify` on snapshots and pods."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from micropod_img.store.store import Store
from tests.rootfs.local_images import LocalService
from tests.rootfs.unpacking import as_root
from tests.support.layers import Entry, whiteout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from micropod_img.models import Pod
    from micropod_img.problems import Problem

pytestmark = as_root

BASE, TOP = [Entry("etc/motd", content=b"base"), Entry("bin/app", content=b"app")], [Entry("etc/motd", content=b"top")]


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    made = LocalService(store_root)
    yield made
    made.end()


@pytest.fixture
def pod(service: LocalService) -> Iterator[Pod]:
    """A pod that is not mounted, of an image with two layers."""
    ref = service.put_layers(BASE, TOP, ref="local/app:1")
    made = service.create_pod(ref, policy="never", pod_id="it", bundle=True)
    yield service.unmount_pod(made.id)
    directory = Store(service.root).layout.pod("it")
    (directory / "pod.json").unlink(missing_ok=True)  # whatever the test made of it, it goes as a directory
    directory.rename(service.root / "tmp" / "gone")


def found(service: LocalService) -> list[Problem]:
    return list(service.verify().problems)


def snapshot(service: LocalService, pod: Pod, position: int) -> Path:
    return Store(service.root).layout.snapshot(pod.chain_ids[position])


def test_pods_and_snapshots_as_they_are_made_have_no_problem(service: LocalService, pod: Pod) -> None:
    service.mount_pod(pod.id)
    (pod.rootfs / "etc/motd").write_text("written by the pod")
    (pod.rootfs / "bin/app").unlink()
    (pod.rootfs / "etc").chmod(0o700)
    checked = service.verify()
    assert (checked.problems, checked.snapshots, checked.pods) == ((), 2, 1)
    service.unmount_pod(pod.id)
    assert found(service) == []


def changed(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


SNAPSHOTS: dict[str, tuple[int, Callable[[Path], object], str]] = {
    "a file changed, its size and time kept": (0, lambda place: changed(place / "fs/etc/motd"), "changed-snapshot"),
    "a file removed": (0, lambda place: (place / "fs/bin/app").unlink(), "changed-snapshot"),
    "a file added": (1, lambda place: (place / "fs/new").touch(), "changed-snapshot"),
    "a mode changed": (1, lambda place: (place / "fs/etc/motd").chmod(0o777), "changed-snapshot"),
    "an owner changed": (1, lambda place: os.chown(place / "fs/etc/motd", 1, 1), "changed-snapshot"),
    "no files": (1, lambda place: (place / "fs").rename(place / "elsewhere"), "incomplete-snapshot"),
    "no record of its parent": (1, lambda place: (place / "parent").unlink(), "incomplete-snapshot"),
    "a torn record of its parent": (1, lambda place: os.truncate(place / "parent", 20), "incomplete-snapshot"),
    "the record of another parent": (1, lambda place: (place / "parent").write_text(""), "incomplete-snapshot"),
}


@pytest.mark.parametrize(("position", "damage", "code"), SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_a_damaged_snapshot_is_found_with_the_image_and_the_pod_that_it_hurts(
    position: int, damage: Callable[[Path], object], code: str, service: LocalService, pod: Pod
) -> None:
    damage(snapshot(service, pod, position))
    (problem,) = found(service)
    assert (problem.code, problem.images, problem.pods) == (code, ("docker.io/local/app:1",), ("it",))
    assert (problem.digest, problem.severity) == (pod.chain_ids[position], "serious")


def test_a_missing_parent_is_found_with_the_pod_that_needs_it(service: LocalService, pod: Pod) -> None:
    snapshot(service, pod, 0).rename(service.root / "tmp" / "gone-too")
    assert [(one.code, one.pods, one.digest) for one in found(service)] == [
        ("broken-chain", ("it",), pod.chain_ids[1]),
        ("missing-snapshot", ("it",), pod.chain_ids[0]),
    ]


PODS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty record": (lambda place: os.truncate(place / "pod.json", 0), "corrupt-pod"),
    "a torn record": (lambda place: os.truncate(place / "pod.json", 50), "corrupt-pod"),
    "no record": (lambda place: (place / "pod.json").rename(place / "other"), "corrupt-pod"),
    "the record of another pod": (
        lambda place: (place / "pod.json").write_text((place / "pod.json").read_text().replace('"it"', '"at"')),
        "corrupt-pod",
    ),
    "no root": (lambda place: (place / "rootfs").rename(place / "other"), "incomplete-pod"),
    "no upper directory": (lambda place: (place / "upper").rename(place / "other"), "incomplete-pod"),
    "a torn bundle": (lambda place: os.truncate(place / "config.json", 9), "corrupt-bundle"),
}


@pytest.mark.parametrize(("damage", "code"), PODS.values(), ids=PODS)
def test_a_damaged_pod_is_found(damage: Callable[[Path], object], code: str, service: LocalService, pod: Pod) -> None:
    damage(service.root / "pods" / pod.id)
    (problem,) = found(service)
    assert (problem.code, problem.pods, problem.severity) == (code, ("it",), "serious")


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"driver": "other"}', bytes(100)])
def test_a_torn_record_of_the_driver_is_found(content: bytes, service: LocalService, pod: Pod) -> None:
    assert pod
    path = service.root / "snapshots" / "driver.json"
    path.write_bytes(content)
    (problem,) = found(service)
    assert (problem.code, problem.path, problem.pods) == ("corrupt-driver", str(path), ("it",))


def test_what_is_no_snapshot_and_no_pod_is_found(service: LocalService, pod: Pod) -> None:
    assert pod
    (service.root / "snapshots" / "old").mkdir()
    (service.root / "pods" / ".hidden").touch()
    assert [one.code for one in found(service)] == ["foreign-file", "foreign-file"]


def test_a_snapshot_with_whiteouts_is_as_it_was_made(service: LocalService) -> None:
    ref = service.put_layers(BASE, [whiteout("etc/motd"), whiteout("bin/app")])
    service.remove_pod(service.create_pod(ref, policy="never").id)
    assert found(service) == []


def test_a_pod_in_the_making_is_no_problem(service: LocalService, pod: Pod) -> None:
    record = service.root / "pods" / pod.id / "pod.json"
    record.rename(record.with_name("pod.json.new"))
    assert found(service) == []
    record.with_name("pod.json.new").rename(record)


def test_pods_that_come_and_go_meanwhile_are_no_problem(service: LocalService) -> None:
    one, two = service.put_layers(BASE, TOP), service.put_layers(TOP, BASE)
    ended = threading.Event()

    def churn() -> None:
        others = LocalService(service.root)
        while not ended.is_set():
            for ref in (one, two):
                others.remove_pod(others.create_pod(ref, policy="never").id)
            others.delete_image(others.put_layers(BASE))
            others.collect_garbage()

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(25):
            assert found(service) == []
    finally:
        ended.set()
        churning.join()
