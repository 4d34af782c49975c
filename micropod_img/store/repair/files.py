"""Put the files of a store right: its version, its marks, modes, owners, and what stands where blobs belong."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.digest import Digest
from micropod_img.problems import Repair
from micropod_img.store.blobs import file_digest
from micropod_img.store.layout import FORMAT, OCI_LAYOUT
from micropod_img.store.open_files import is_open

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from micropod_img.problems import Problem
    from micropod_img.store.layout import StoreLayout
    from micropod_img.store.store import Store

_TEMPORARY = ("oci-put-blob",)  # of skopeo, podman and buildah, in the layout's directory


class FileRepair:
    """The repair of files of one store.

    Args:
        store: The store.
        missing: Blobs that images need and that are not here.
    """

    def __init__(self, store: Store, missing: Collection[Digest]) -> None:
        self._missing = missing
        self.repaired: list[Repair] = []
        self._store = store
        self._layout: StoreLayout = store.layout

    def marks(self, problems: Iterable[Problem]) -> None:
        """Write the version file and ``oci-layout`` again where they are torn; a store can be prepared then."""
        for problem in problems:
            if problem.code == "corrupt-version" and self._layout.images.is_dir():
                self._write(self._layout.version, f"{FORMAT}\n".encode(), "rewrote-version")
            elif problem.code == "corrupt-layout":
                self._write(self._layout.images / "oci-layout", OCI_LAYOUT, "rewrote-layout")

    def others(self, problems: Iterable[Problem]) -> None:
        """Put modes and owners right, and take away what stands where only blobs may."""
        for problem in problems:
            path = self._layout.root / problem.path
            with contextlib.suppress(FileNotFoundError), fsutil.disk_errors(path):
                match problem.code:
                    case "wrong-mode":
                        self._mode(path)
                    case "wrong-owner" if os.geteuid() == 0:
                        os.chown(path, 0, -1, follow_symlinks=False)
                        self._note("changed-owner", f"{path} belongs to user 0 again", path)
                    case "misnamed-blob":
                        self._misnamed(path)
                    case "foreign-file" if path.parent == self._layout.images and path.name.startswith(_TEMPORARY):
                        self._remove(path)
                    case "not-a-file":
                        self._no_file(path)

    def _write(self, path: Path, content: bytes, code: str) -> None:
        fsutil.make_directory(self._layout.locks)
        with fsutil.disk_errors(path):
            fsutil.replace_durably(path, content, staging=self._layout.locks / f"{path.name}.new")
        self._note(code, f"{path} says again what it should", path)

    def _mode(self, path: Path) -> None:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):  # since it was looked at
            return
        if stat.S_ISREG(status.st_mode):
            mode = 0o644
        else:
            mode = 0o700 if path == self._layout.root else stat.S_IMODE(status.st_mode) & ~0o022
        path.chmod(mode)
        self._note("changed-mode", f"{path} has mode {mode:04o} again", path)

    def _misnamed(self, path: Path) -> None:
        """Give a blob that is missing its name back, and remove anything else."""
        if is_open(path):
            return
        if stat.S_ISREG(path.lstat().st_mode):
            digest = file_digest(path)
            target = self._layout.blob(digest)
            if digest in self._missing and not os.path.lexists(target):
                path.chmod(0o644)
                fsutil.fsync_file(path)
                path.rename(target)
                self._store.blobs.sync()
                self._note("renamed-blob", f"{path.name} was blob {digest}, and is called so again", target)
                return
        self._remove(path)

    def _no_file(self, path: Path) -> None:
        """Take away what is no file; the bytes that a link leads to are copied if they are the blob's."""
        digest = Digest(f"sha256:{path.name}")
        if stat.S_ISREG(path.lstat().st_mode):  # since it was looked at
            return
        if path.is_symlink() and path.is_file():
            with self._store.stage("repair") as staging:
                copy = staging.path / "copy"
                fsutil.copy_file(path, copy)
                if file_digest(copy) == digest:
                    self._store.blobs.publish(copy, digest)
                    self._store.blobs.sync()
                    self._note("copied-blob", f"blob {digest} is a file again, and no link", path)
                    return
        self._remove(path)

    def _remove(self, path: Path) -> None:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            self._note("removed-file", f"removed {path}, which nothing can need", path)
            return
        place = set_aside(self._layout, path)
        self._note("moved-aside", f"moved {path}, a directory, to {place}", path)

    def _note(self, code: str, message: str, path: Path) -> None:
        self.repaired.append(Repair(code, message, str(path)))


def set_aside(layout: StoreLayout, path: Path) -> Path:
    """Move a file or directory to where people can look at it; return its new place."""
    fsutil.make_directory(layout.damaged)
    place = layout.damaged / f"{path.name}.{os.urandom(4).hex()}"
    path.rename(place)
    return place


def copy_aside(layout: StoreLayout, name: str, content: bytes) -> Path:
    """Keep the content of a file that is about to be replaced where people can look at it; return its place."""
    fsutil.make_directory(layout.damaged)
    place = layout.damaged / f"{name}.{os.urandom(4).hex()}"
    fsutil.write_durably(place, content, mode=0o600)
    return place
