from __future__ import annotations

import _thread
import contextlib
import errno
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.digest import hex_of, sha256_of
from micropod_img.errors import ConflictError, DiskError, MicropodError, UnsupportedError
from micropod_img.rootfs import mounts, syscalls
from micropod_img.rootfs.drivers.overlay import OverlayDriver
from micropod_img.rootfs.mountinfo import mounted_at, parse_mountinfo
from micropod_img.rootfs.mounts import Overlay, bind_mount, mount_error, mount_overlay, snapshot_of, unmount
from micropod_img.rootfs.private_mounts import in_private_mounts
from micropod_img.store.layout import StoreLayout
from tests.rootfs.unpacking import as_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_mountinfo_is_read_with_its_escapes_and_optional_fields() -> None:
    content = (
        b"27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n"
        b"43 27 0:39 /sub /a\\040b\\011c\\012d\\134e\\303\\251\xff rw - fuse.x src ro,opts\n"
    )
    root, other = parse_mountinfo(content)
    assert (str(root.path), root.kind, root.source, root.device) == ("/", "ext4", "/dev/vda", os.makedev(254, 0))
    assert os.fsencode(other.path) == b"/a b\tc\nd\\e\xc3\xa9\xff"
    assert (other.kind, other.source, other.device) == ("fuse.x", "src", os.makedev(0, 39))


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.EBUSY, ConflictError, "mount-busy"),
        (errno.EPERM, DiskError, "mount-permission"),
        (errno.EACCES, DiskError, "mount-permission"),
        (errno.ENOENT, DiskError, "mount-missing"),
        (errno.ENOSPC, DiskError, "too-many-mounts"),
        (errno.EINVAL, UnsupportedError, "mount-refused"),
        (errno.ENODEV, UnsupportedError, "mount-refused"),
    ],
)
def test_what_the_kernel_refuses_is_said_in_a_users_words(
    number: int, kind: type[MicropodError], code: str, tmp_path: Path
) -> None:
    error = mount_error(OSError(number, os.strerror(number)), tmp_path)
    assert type(error) is kind
    assert error.code == code
    assert str(tmp_path) in error.message


@pytest.fixture(params=["store", "with:colon,comma", "back\\slash", "l" * 240])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreLayout]:
    made = StoreLayout(tmp_path / str(request.param))
    (made.root / "target").mkdir(parents=True)
    yield made
    if mounted_at(made.root / "target"):
        unmount(made.root / "target")


def name_of(number: int) -> str:
    return hex_of(sha256_of(bytes(number)))


def lowers_of(layout: StoreLayout, number: int) -> tuple[Path, ...]:
    lowers = tuple(layout.snapshots / name_of(one) / "fs" for one in range(number))
    for one, lower in enumerate(lowers):
        lower.mkdir(parents=True)
        (lower / "same").write_text(str(one))
        (lower / f"f{one}").touch()
    return lowers


def overlay_of(layout: StoreLayout, number: int, *, writable: bool = True) -> Overlay:
    lowers = lowers_of(layout, number)
    if not writable:
        return Overlay(mounts.source_of(lowers), layout.root, lowers)
    (layout.root / "upper").mkdir()
    (layout.root / "work").mkdir()
    return Overlay(mounts.source_of(lowers), layout.root, lowers, layout.root / "upper", layout.root / "work")


@as_root
@pytest.mark.parametrize("number", [1, 2, 127])
@pytest.mark.parametrize("api", ["fsopen", "mount"])
def test_an_overlay_of_many_layers_is_mounted_whatever_the_path(
    number: int, api: str, layout: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    if api == "mount":

        def no_such_call(_: str) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(syscalls, "FilesystemContext", no_such_call)
    target = layout.root / "target"
    driver = OverlayDriver(layout, userxattr=False)
    mount_overlay(overlay_of(layout, number), target, short_name=driver._short_name)
    assert len(list(target.iterdir())) == number + 1
    assert (target / "same").read_text() == str(number - 1)
    mounted = mounted_at(target)
    assert mounted is not None
    assert snapshot_of(mounted) == name_of(number - 1)
    (target / "new").touch()
    assert (layout.root / "upper/new").exists()
    assert layout.snapshot_links.exists() == (api == "mount" and number == 127)
    unmount(target)
    unmount(target)
    assert list(target.iterdir()) == []


@as_root
def test_short_names_grow_where_two_snapshots_would_share_one(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    driver = OverlayDriver(layout, userxattr=False)
    names = ["a" * 64, "a" * 10 + "b" * 54]
    lowers = [layout.snapshots / name / "fs" for name in names]
    for lower in lowers:
        lower.mkdir(parents=True)
    links = [driver._short_name(lower) for lower in (*lowers, *lowers)]
    assert [link.name for link in links] == ["a" * 10, "a" * 10 + "b"] * 2
    assert [link.resolve() for link in links] == [*lowers, *lowers]


@as_root
def test_the_kernels_own_words_are_kept(tmp_path: Path) -> None:
    overlay = overlay_of(StoreLayout(tmp_path / "store"), 2)
    with pytest.raises(DiskError) as caught:
        mount_overlay(overlay, tmp_path / "nowhere")
    assert "No such file" in (caught.value.detail or "")


@as_root
def test_private_mounts_are_seen_inside_only_and_end_with_the_work(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").touch()

    def work() -> bool:
        bind_mount(source, target)
        return (target / "file").exists()

    assert in_private_mounts(work, Cancellation())
    assert mounted_at(target) is None
    assert list(target.iterdir()) == []


@as_root
def test_errors_of_private_work_reach_the_caller() -> None:
    def fail() -> None:
        raise DiskError("full")

    with pytest.raises(DiskError, match="full"):
        in_private_mounts(fail, Cancellation())


@as_root
def test_an_interrupt_is_raised_when_private_work_has_ended() -> None:
    cancellation = Cancellation()
    has_ended = False

    def work() -> None:
        nonlocal has_ended
        _thread.interrupt_main()
        with contextlib.suppress(CancelledError):
            cancellation.sleep(60)
        time.sleep(0.3)  # it cleans up
        has_ended = True

    with pytest.raises(KeyboardInterrupt):
        in_private_mounts(work, cancellation)
    assert has_ended


def test_a_call_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        syscalls.umount(str(tmp_path))


@as_root
def test_a_private_unmount_waits_for_a_child_that_has_what_was_open_when_it_was_forked(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").touch()

    def work() -> bool:
        bind_mount(source, target)
        opened = os.open(target / "file", os.O_RDONLY)
        letting_go = threading.Timer(0.1, os.close, [opened])
        letting_go.start()
        mounts.unmount_private(target)
        letting_go.join()
        return not target.is_mount()

    assert in_private_mounts(work, Cancellation())
