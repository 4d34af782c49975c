"""What every driver does: the same trees, whatever they are made with."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import DiskError, UnsupportedError
from micropod_img.rootfs import making
from micropod_img.rootfs.drivers import choice
from micropod_img.rootfs.drivers.copies import CopyDriver
from micropod_img.rootfs.drivers.fuse import FuseOverlayDriver
from micropod_img.rootfs.drivers.overlay import OverlayDriver
from tests.rootfs.faithful import FAITHFUL, TIMES, as_described, regular, without_link_counts
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import hard_links, tree
from tests.rootfs.unpacking import as_root
from tests.support.layers import Entry, directory, hardlink, whiteout
from tests.support.processes import require_program, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from micropod_img.rootfs.drivers.driver import Driver
    from micropod_img.store.layout import StoreLayout

pytestmark = as_root

OTHERWISE = {("fuse-overlayfs", TIMES): b"d"}
"""It forgets the time of a directory when it copies up a directory in there, which the kernel's overlay restores."""

DRIVERS = ("overlay", "overlay-userxattr", "fuse-overlayfs", "copy")


def driver_of(layout: StoreLayout, name: str) -> Driver:
    if name == "copy":
        return CopyDriver()
    if name == "fuse-overlayfs":
        require_program("fuse-overlayfs", package="fuse-overlayfs")
        return FuseOverlayDriver(layout)
    return OverlayDriver(layout, userxattr=name == "overlay-userxattr")


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each driver in turn, as if it were the only one."""
    name = str(request.param)
    monkeypatch.setattr(choice, "drivers", lambda layout: (driver_of(layout, name),))
    return name


@pytest.fixture
def service(store_root: Path, driver: str) -> Iterator[LocalService]:
    made = LocalService(store_root)
    yield made
    made.end()
    assert driver == made.driver_choice().driver


@pytest.mark.parametrize("case", FAITHFUL)
def test_a_pod_and_a_plain_unpack_have_the_tree_that_the_layers_describe(
    case: str, service: LocalService, driver: str, tmp_path: Path
) -> None:
    archives, expected = FAITHFUL[case]
    ref = service.put_layers(*archives)
    pod = as_described(tree(service.create_pod(ref, policy="never").rootfs), expected)
    if (driver, case) in OTHERWISE:
        path = OTHERWISE[driver, case]
        pod[path] = dataclasses.replace(pod[path], mtime_ns=expected[path].mtime_ns)
    if driver == "copy":
        assert pod == expected
    else:
        assert without_link_counts(pod) == without_link_counts(expected)
    if driver == "overlay":
        plain = tree(service.unpack(ref, tmp_path / "plain", policy="never"))
        assert as_described(plain, expected) == expected


@pytest.mark.parametrize("driver", ["overlay", "overlay-userxattr"], indirect=True)
@pytest.mark.parametrize("case", FAITHFUL)
def test_a_pod_of_layers_that_are_unpacked_apart_has_the_tree_that_they_describe(
    case: str, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_SMALLEST_APART", 0)
    archives, expected = FAITHFUL[case]
    rootfs = service.create_pod(service.put_layers(*archives), policy="never").rootfs
    assert without_link_counts(as_described(tree(rootfs), expected)) == without_link_counts(expected)


def test_times_of_directories_are_those_of_a_plain_unpack(service: LocalService, tmp_path: Path) -> None:
    ref = service.put_layers(
        [directory("./"), directory("d"), directory("d/e"), Entry("d/e/f")], [Entry("d/g"), directory("n")]
    )
    pod = service.create_pod(ref, policy="never").rootfs
    plain = service.unpack(ref, tmp_path / "plain", policy="never")
    for path in ("", "d", "d/e", "n"):
        assert (pod / path).stat().st_mtime_ns == (plain / path).stat().st_mtime_ns, path


def test_the_root_directory_is_as_the_topmost_layer_says_it(service: LocalService) -> None:
    ref = service.put_layers(
        [dataclasses.replace(directory("./", mode=0o711), uid=7)], [Entry("a")], [Entry("b")], [Entry("c")]
    )
    status = service.create_pod(ref, policy="never").rootfs.stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o711, 7)


def test_pods_of_one_image_do_not_see_what_another_writes(service: LocalService) -> None:
    ref = service.put_layers([Entry("d/kept", b"1"), Entry("d/gone"), Entry("linked"), hardlink("link", "linked")])
    one, other = (service.create_pod(ref, policy="never").rootfs for _ in range(2))
    before = tree(other)
    assert hard_links(other) == {frozenset({b"linked", b"link"})}
    (one / "d/kept").write_bytes(b"changed")
    (one / "d/gone").unlink()
    (one / "new").touch()
    (one / "linked").chmod(0o600)
    assert tree(other) == before
    assert set(before) == {b"d", b"d/kept", b"d/gone", b"linked", b"link"}
    third = service.create_pod(ref, policy="never").rootfs
    assert tree(third) == before


def test_an_image_of_127_layers_makes_a_pod(service: LocalService) -> None:
    ref = service.put_layers(*([Entry(f"f{number}")] for number in range(126)), [whiteout("f7")])
    assert len(tree(service.create_pod(ref, policy="never").rootfs)) == 125


def test_an_image_without_layers_makes_a_pod(service: LocalService) -> None:
    pod = service.create_pod(service.put_layers(), policy="never")
    (pod.rootfs / "a").touch()
    assert set(tree(pod.rootfs)) == {b"a"}


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_read_only_pod_cannot_be_written(layers: int, service: LocalService, driver: str) -> None:
    ref = service.put_layers(*([Entry(f"f{number}")] for number in range(layers)))
    if driver == "copy":
        with pytest.raises(UnsupportedError):
            service.create_pod(ref, policy="never", read_only=True)
        return
    pod = service.create_pod(ref, policy="never", read_only=True)
    assert len(tree(pod.rootfs)) == layers
    with pytest.raises(OSError, match="Read-only"):
        (pod.rootfs / "new").touch()


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_an_image_is_mounted_read_only_without_the_effect_of_setuid(
    layers: int, service: LocalService, driver: str, tmp_path: Path
) -> None:
    ref = service.put_layers(*([Entry(f"f{number}", mode=0o4755)] for number in range(layers)))
    target = tmp_path / "mount:point"
    target.mkdir()
    if driver == "copy":
        with pytest.raises(UnsupportedError):
            service.mount_image(ref, target, policy="never")
        return
    assert service.mount_image(ref, target, policy="never") == target
    try:
        assert len(tree(target)) == layers
        flags = os.statvfs(target).f_flag
        assert flags & os.ST_RDONLY
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV
    finally:
        service.unmount_image(target)
    assert tree(target) == {}


def test_a_pod_keeps_what_was_written_while_it_is_not_mounted(service: LocalService) -> None:
    pod = service.create_pod(service.put_layers([Entry("a"), Entry("b")]), policy="never")
    (pod.rootfs / "a").unlink()
    (pod.rootfs / "new").write_bytes(b"1")
    os.utime(pod.rootfs / "new", (1, 1))  # fuse writes a file's own time back when it likes
    before = tree(pod.rootfs)
    service.unmount_pod(pod.id)
    assert service.mount_pod(pod.id).mounted
    assert tree(pod.rootfs) == before
    assert before[b"new"].content == regular(b"1").content


def test_a_store_whose_path_has_colons_and_commas_works(tmp_path: Path, driver: str) -> None:
    colon = "" if driver == "fuse-overlayfs" else ":"  # which takes it for the end of a name
    service = LocalService(tmp_path / rf"a{colon}b,c\d=e" / ("long" * 60))
    pod = service.create_pod(service.put_layers([Entry("a")], [Entry("b")]), policy="never")
    assert pod.driver == driver
    assert set(tree(pod.rootfs)) == {b"a", b"b"}
    service.end()


def test_fuse_processes_end_with_their_mounts(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "drivers", lambda layout: (driver_of(layout, "fuse-overlayfs"),))
    service = LocalService(store_root)
    service.create_pod(service.put_layers([Entry("a")], [Entry("b")]), policy="never")
    assert len(fuse_processes(store_root)) == 1
    service.end()
    for _ in range(100):
        if not fuse_processes(store_root):
            break
        run("sleep", "0.02")
    assert fuse_processes(store_root) == []


def fuse_processes(root: Path) -> list[str]:
    return run("pgrep", "-f", f"fuse-overlayfs.*{root}").stdout.split()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_is_full_or_broken_decides_for_no_driver(
    number: int, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    service = LocalService(store_root)
    ref = service.put_layers([Entry("a", b"1")])
    with monkeypatch.context() as broken:
        broken.setattr(choice, "_try", fail)
        broken.setattr(choice, "_disk_works", lambda _: False)
        with pytest.raises(DiskError):
            service.create_pod(ref, policy="never")
    assert service.driver_choice().driver == "overlay"
