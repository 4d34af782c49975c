"""The kernel's overlay filesystem; with ``userxattr`` inside a user namespace."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.rootfs.drivers.driver import make_pod_directories
from micropod_img.rootfs.drivers.metadata import make_root
from micropod_img.rootfs.mounts import Overlay, bind_mount, forbid_writing, mount_overlay, source_of, unmount_private
from micropod_img.rootfs.private_mounts import in_private_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.rootfs.drivers.driver import PodPaths, Result
    from micropod_img.store.layout import StoreLayout

_SHORTEST_LINK = 10


class OverlayDriver:
    """Snapshots are the upper directories of overlays, pods are overlays of them.

    Args:
        layout: The store's paths.
        userxattr: Whether overlay keeps its attributes where root of a user namespace may write them.
    """

    mounts = True
    joins = True

    def __init__(self, layout: StoreLayout, *, userxattr: bool) -> None:
        self._layout = layout
        self._userxattr = userxattr

    @property
    def name(self) -> str:
        """``overlay`` or ``overlay-userxattr``: the two do not understand each other's attributes."""
        return "overlay-userxattr" if self._userxattr else "overlay"

    def isolated(self, work: Callable[[], Result], cancellation: Cancellation) -> Result:
        """Do work in a mount namespace of its own."""
        return in_private_mounts(work, cancellation)

    @contextlib.contextmanager
    def applying(self, parents: Sequence[Path], snapshot: Path, target: Path) -> Iterator[None]:
        """Mount the parents with the snapshot's files as the upper directory."""
        fs, work = snapshot / "fs", snapshot / "work"
        make_root(fs, parents[-1] if parents else None)
        if parents:
            work.mkdir()
            # What the kernel need not do here is done when the snapshot is committed, while the next one is made.
            self._mount(parents, target, upper=fs, work=work, is_volatile=True)
        else:
            bind_mount(fs, target)
        yield
        # Only after success: a program that was ended may need a moment to let go, and the namespace ends anyway.
        unmount_private(target)

    def prepare_pod(
        self, pod: PodPaths, lowers: Sequence[Path], *, read_only: bool, written_first: bool = False
    ) -> None:
        """Make the mount point, and an upper and a work directory for what is written."""
        make_pod_directories(pod, lowers, writable=written_first or not read_only)

    def mount_pod(self, pod: PodPaths, lowers: Sequence[Path], *, read_only: bool) -> None:
        """Mount the snapshots, with the pod's upper directory if it has one."""
        if not pod.upper.exists():
            self._mount(lowers, pod.rootfs)
            return
        self._mount(lowers, pod.rootfs, upper=pod.upper, work=pod.work)
        if read_only:
            forbid_writing(pod.rootfs)

    def mount_image(self, lowers: Sequence[Path], target: Path) -> None:
        """Mount the snapshots alone."""
        self._mount(lowers, target, nosuid_nodev=True)

    def _mount(
        self,
        lowers: Sequence[Path],
        target: Path,
        *,
        upper: Path | None = None,
        work: Path | None = None,
        nosuid_nodev: bool = False,
        is_volatile: bool = False,
    ) -> None:
        overlay = Overlay(
            source_of(lowers),
            self._layout.root,
            self._completed(lowers, least=2 if upper is None else 1),
            upper,
            work,
            userxattr=self._userxattr,
            is_volatile=is_volatile,
        )
        mount_overlay(overlay, target, nosuid_nodev=nosuid_nodev, short_name=self._short_name)

    def _completed(self, lowers: Sequence[Path], *, least: int) -> tuple[Path, ...]:
        """Put empty directories below: the kernel takes none, or a single one that is only read, for no overlay."""
        names = ("empty", "empty-too")[: max(least - len(lowers), 0)]
        return (*(self._layout.empty_snapshot(name) for name in names), *lowers)

    def _short_name(self, lower: Path) -> Path:
        """Return a link to a snapshot's files whose name is no longer than it must be to be the only one."""
        target = f"../{lower.relative_to(self._layout.snapshots)}"
        fsutil.make_directory(self._layout.snapshot_links)
        for length in range(_SHORTEST_LINK, len(lower.parent.name) + 1):
            link = self._layout.snapshot_links / lower.parent.name[:length]
            with contextlib.suppress(FileExistsError):
                link.symlink_to(target)
                return link
            if str(link.readlink()) == target:
                return link
        raise AssertionError("two snapshots have the same name")
