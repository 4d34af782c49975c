"""What every driver can do (the shape is that of containerd's core/snapshots: prepare, commit, mount, remove)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from micropod_img.rootfs.drivers.metadata import make_root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from micropod_img.cancellation import Cancellation

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PodPaths:
    """The directories of one pod."""

    directory: Path

    @property
    def record(self) -> Path:
        """What the pod is made of (``pod.json``)."""
        return self.directory / "pod.json"

    @property
    def draft(self) -> Path:
        """What becomes ``pod.json`` when the pod is whole; until then there is no pod."""
        return self.directory / "pod.json.new"

    @property
    def config(self) -> Path:
        """What makes it a bundle that a runtime can start (``config.json``)."""
        return self.directory / "config.json"

    @property
    def rootfs(self) -> Path:
        """Where the pod's files are seen."""
        return self.directory / "rootfs"

    @property
    def upper(self) -> Path:
        """What the pod changed."""
        return self.directory / "upper"

    @property
    def work(self) -> Path:
        """The overlay's own."""
        return self.directory / "work"


def make_pod_directories(pod: PodPaths, lowers: Sequence[Path], *, writable: bool) -> None:
    """Make what the overlay of a pod needs: its mount point, and an upper and a work directory for what is written.

    Args:
        pod: Its paths; the directory itself is there.
        lowers: The files of its snapshots, bottom to top.
        writable: Whether anything is ever written to it.
    """
    pod.rootfs.mkdir()
    if writable:
        make_root(pod.upper, lowers[-1] if lowers else None)
        pod.work.mkdir()


class Driver(Protocol):
    """Turns committed snapshots into file trees; snapshots of one driver are of no use to another."""

    @property
    def name(self) -> str:
        """What it is called in ``pod.json`` and to users."""

    @property
    def mounts(self) -> bool:
        """Whether a pod's files are seen only while something is mounted."""

    @property
    def joins(self) -> bool:
        """Whether files that were unpacked in an empty directory can be a snapshot (`micropod_img.rootfs.joining`)."""

    def isolated(self, work: Callable[[], Result], cancellation: Cancellation) -> Result:
        """Do work that uses `applying` where its mounts cannot outlive it."""

    def applying(self, parents: Sequence[Path], snapshot: Path, target: Path) -> AbstractContextManager[None]:
        """Show the parents in a directory; what is changed there until the block ends becomes a snapshot's files.

        Args:
            parents: Files of the snapshots below, bottom to top.
            snapshot: An empty private directory; ``fs`` in it is the result.
            target: An empty directory.
        """

    def prepare_pod(
        self, pod: PodPaths, lowers: Sequence[Path], *, read_only: bool, written_first: bool = False
    ) -> None:
        """Make what a pod needs, before the directory gets its name.

        Args:
            pod: Its directories.
            lowers: Files of its snapshots, bottom to top.
            read_only: Whether nobody may write there in the end.
            written_first: Whether it is mounted to be written to before that, and what was written stays.
        """

    def mount_pod(self, pod: PodPaths, lowers: Sequence[Path], *, read_only: bool) -> None:
        """Let a pod's files be seen in its ``rootfs``.

        Args:
            pod: Its directories, made by `prepare_pod`.
            lowers: Files of its snapshots, bottom to top.
            read_only: Whether nobody may write there.
        """

    def mount_image(self, lowers: Sequence[Path], target: Path) -> None:
        """Let an image's files be seen, read-only and without the effect of setuid and devices, in a directory."""
