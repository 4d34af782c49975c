"""fuse-overlayfs: an overlay by a process of ours, where the kernel's does not work (github.com/containers)."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from micropod_img import run
from micropod_img.errors import UnsupportedError
from micropod_img.rootfs.drivers.driver import make_pod_directories
from micropod_img.rootfs.drivers.metadata import make_root
from micropod_img.rootfs.mountinfo import mounted_at
from micropod_img.rootfs.mounts import bind_mount, unmount_private
from micropod_img.rootfs.private_mounts import in_private_mounts
from micropod_img.rootfs.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.rootfs.drivers.driver import PodPaths, Result
    from micropod_img.store.layout import StoreLayout

_START_SECONDS = 10.0
_POLL_SECONDS = 0.005
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class FuseOverlayDriver:
    """Snapshots and pods as those of the kernel's overlay, mounted by fuse-overlayfs.

    Args:
        layout: The store's paths.
    """

    name = "fuse-overlayfs"
    mounts = True
    joins = False

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout

    def isolated(self, work: Callable[[], Result], cancellation: Cancellation) -> Result:
        """Do work in a mount namespace of its own."""
        return in_private_mounts(work, cancellation)

    @contextlib.contextmanager
    def applying(self, parents: Sequence[Path], snapshot: Path, target: Path) -> Iterator[None]:
        """Mount the parents with the snapshot's files as the upper directory, by a child that dies with us."""
        fs, work = snapshot / "fs", snapshot / "work"
        make_root(fs, parents[-1] if parents else None)
        if not parents:
            bind_mount(fs, target)
            yield
            unmount_private(target)
            return
        work.mkdir()
        argv = self._argv(parents, target, "-f", upper=fs, work=work)
        with run.Child(argv, env=_ENVIRONMENT, cwd=self._layout.root) as child:
            self._wait_until_mounted(child, target)
            yield
            unmount_private(target)
            if not child.wait(_START_SECONDS):
                raise UnsupportedError("fuse-overlayfs does not end after it was unmounted", code="mount-refused")

    def prepare_pod(
        self, pod: PodPaths, lowers: Sequence[Path], *, read_only: bool, written_first: bool = False
    ) -> None:
        """Make the mount point, and an upper and a work directory for what is written."""
        make_pod_directories(pod, lowers, writable=written_first or not read_only)

    def mount_pod(self, pod: PodPaths, lowers: Sequence[Path], *, read_only: bool) -> None:
        """Start a process that serves the pod's files until they are unmounted."""
        options = ("-o", "ro") if read_only else ()
        if pod.upper.exists():
            self._mount(lowers, pod.rootfs, *options, upper=pod.upper, work=pod.work)
        else:
            self._mount(lowers, pod.rootfs, *options)

    def mount_image(self, lowers: Sequence[Path], target: Path) -> None:
        """Start a process that serves the image's files until they are unmounted."""
        self._mount(lowers, target, "-o", "ro,nosuid,nodev")

    def _mount(
        self, lowers: Sequence[Path], target: Path, *options: str, upper: Path | None = None, work: Path | None = None
    ) -> None:
        argv = self._argv(lowers, target, *options, upper=upper, work=work)
        completed = run.run(argv, env=_ENVIRONMENT, cwd=self._layout.root)
        if completed.status != 0 or mounted_at(target) is None:
            raise _refused(target, completed.stderr)

    def _argv(
        self, lowers: Sequence[Path], target: Path, *options: str, upper: Path | None = None, work: Path | None = None
    ) -> list[str]:
        """Return the command; paths are relative to the store, so that no sign in them can be taken for another."""
        shown = lowers or [self._layout.empty_snapshot()]
        layers = [f"lowerdir={':'.join(self._relative(lower) for lower in reversed(shown))}"]
        if upper is not None and work is not None:
            layers += [f"upperdir={self._relative(upper)}", f"workdir={self._relative(work)}"]
        program = find_program("fuse-overlayfs", package="fuse-overlayfs")
        return [program, *options, "-o", ",".join(layers), str(target)]

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._layout.root))

    def _wait_until_mounted(self, child: run.Child, target: Path) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while mounted_at(target) is None:
            if child.wait(_POLL_SECONDS):
                raise _refused(target, child.completed().stderr)
            if time.monotonic() > deadline:
                raise _refused(target, f"nothing was mounted in {_START_SECONDS:.0f} seconds")


def _refused(target: Path, detail: str) -> UnsupportedError:
    return UnsupportedError(
        f"fuse-overlayfs could not mount {target}",
        code="mount-refused",
        hint="micropod-img doctor says what works here",
        detail=detail,
    )
