"""Private places for work in progress.

A staging directory is locked by its owner, and by the children that were given the lock's descriptor, for as long as
one of them lives. With hard links to the blobs that it will use it is the lease on them: what it links, nothing takes.
Whatever in ``tmp/`` is locked by nobody is garbage of a process that was killed; complete layers in it are kept.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Self

from micropod_img import fsutil
from micropod_img.digest import Digest
from micropod_img.store.blobs import file_digest, is_hex

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from micropod_img.store.blobs import BlobStore
    from micropod_img.store.layout import StoreLayout


class Staging:
    """A private directory under ``tmp/``, locked while the ``with`` block runs, gone after it.

    Args:
        layout: The store's paths.
        purpose: First part of the directory's name, for people who look.
    """

    def __init__(self, layout: StoreLayout, purpose: str) -> None:
        self._layout = layout
        self._purpose = purpose

    def __enter__(self) -> Self:
        with fsutil.disk_errors(self._layout.staging):
            while True:
                self.path: Path = self._layout.staging / f"{self._purpose}-{os.urandom(6).hex()}"
                self.path.mkdir(mode=0o700)
                self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                # A sweep may have seen the directory before it was locked; then it is the sweep's.
                if fsutil.try_lock(self.descriptor) and fsutil.same_file(self.descriptor, self.path):
                    break
                os.close(self.descriptor)
            self.path.chmod(0o700)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _remove_tree(self.path)
        os.close(self.descriptor)

    @property
    def image_layout(self) -> Path:
        """The OCI layout that crane fills."""
        return self.path / "layout"

    @property
    def blobs(self) -> Path:
        """The blobs directory of that layout."""
        return self.image_layout / "blobs" / "sha256"

    def probe_filesystem(self) -> None:
        """Prove that a file here can be linked into the blobs, before gigabytes are fetched that cannot.

        Raises:
            DiskError: A bind mount or another filesystem is in between, or there are no hard links here.
        """
        probe = self.path / "probe"
        target = self._layout.blobs / f".probe-{os.urandom(6).hex()}"
        with fsutil.disk_errors(self._layout.images):
            probe.touch()
            try:
                os.link(probe, target)
            finally:
                target.unlink(missing_ok=True)
                probe.unlink()


def sweep(layout: StoreLayout, blobs: BlobStore) -> None:
    """Remove what killed processes left in ``tmp/``; layers that had arrived whole become blobs, for the next try."""
    with contextlib.suppress(FileNotFoundError), os.scandir(layout.staging) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                _sweep_one(layout, blobs, layout.staging / entry.name)


def _sweep_one(layout: StoreLayout, blobs: BlobStore, path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if fsutil.try_lock(descriptor) and fsutil.same_file(descriptor, path):
            if path.is_dir():
                _salvage(layout, blobs, path / "layout" / "blobs" / "sha256")
                _remove_tree(path)
            else:
                path.unlink()
    finally:
        os.close(descriptor)


def _salvage(layout: StoreLayout, blobs: BlobStore, directory: Path) -> None:
    if not directory.is_dir():
        return
    salvaged = False
    for path in directory.iterdir():
        digest = Digest(f"sha256:{path.name}")
        # Crane's rename may have survived a power cut that its data did not: only the bytes prove it.
        if is_hex(path.name) and not layout.blob(digest).exists() and file_digest(path) == digest:
            blobs.publish(path, digest)
            salvaged = True
    if salvaged:
        blobs.sync()


def _remove_tree(path: Path) -> None:
    # A child that was killed with its parent may put one more file into a directory that is being emptied.
    for _ in range(3):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
    with fsutil.disk_errors(path):
        shutil.rmtree(path)
