"""Whole copies: for places where nothing can be mounted. Where the filesystem has reflinks they share their blocks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from micropod_img import run
from micropod_img.errors import DiskError, UnsupportedError
from micropod_img.rootfs.drivers.metadata import make_root
from micropod_img.rootfs.programs import find_program
from micropod_img.rootfs.syscalls import sync_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.rootfs.drivers.driver import PodPaths, Result


class CopyDriver:
    """Snapshots and pods are complete trees; cp copies them, as no Python may follow a link in there."""

    name = "copy"
    mounts = False
    joins = False

    def isolated(self, work: Callable[[], Result], cancellation: Cancellation) -> Result:  # noqa: ARG002 - see Driver
        """Do work as it is: nothing is mounted."""
        return work()

    @contextlib.contextmanager
    def applying(self, parents: Sequence[Path], snapshot: Path, target: Path) -> Iterator[None]:
        """Copy the topmost parent, which has the files of all, to the target, and move that away afterwards."""
        if parents:
            copy_tree(parents[-1], target)
        yield
        target.rename(snapshot / "fs")
        make_root(target, None)

    def prepare_pod(
        self,
        pod: PodPaths,
        lowers: Sequence[Path],
        *,
        read_only: bool,
        written_first: bool = False,  # noqa: ARG002 - see Driver
    ) -> None:
        """Copy the topmost snapshot, durably: a pod that is there after a power cut shall have all its files."""
        if read_only:
            raise UnsupportedError(
                "copies cannot be made read-only",
                code="driver-cannot",
                hint="leave out --read-only; a runtime can mount the copy read-only",
            )
        make_root(pod.rootfs, None)
        if lowers:
            copy_tree(lowers[-1], pod.rootfs)
            sync_filesystem(pod.rootfs)  # the names and bytes are many, as those of a snapshot

    def mount_pod(self, pod: PodPaths, lowers: Sequence[Path], *, read_only: bool) -> None:
        """Do nothing: the copy is there."""

    def mount_image(self, lowers: Sequence[Path], target: Path) -> None:  # noqa: ARG002 - see Driver
        """Refuse: nothing can be mounted."""
        raise UnsupportedError(
            f"{target}: nothing can be mounted here",
            code="driver-cannot",
            hint="micropod-img unpack makes a copy; micropod-img doctor says what is missing for a mount",
        )


def copy_tree(source: Path, target: Path) -> None:
    """Copy what is in a directory, and the directory's own metadata, to another one that exists.

    Raises:
        DiskError: cp could not copy something.
        ToolError: cp is missing.
    """
    argv = [find_program("cp", package="coreutils"), "-a", "--reflink=auto", "-T", "--", str(source), str(target)]
    completed = run.run(argv, env={"LC_ALL": "C.UTF-8"})
    if completed.status != 0:
        raise DiskError(f"{source} could not be copied to {target}", code="copy-failed", detail=completed.stderr)
