"""Private places for work in progress.

A staging directory is locked by its owner, and by the children that were given the lock's descriptor, for as long as
one of them lives. With hard links to the blobs that it will use it is the lease on them: what it links, nothing takes.
Whatever in ``tmp/`` is locked by nobody is garbage of a process that was killed; complete layers in it are kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING, Self

from micropod_img import fsutil
from micropod_img.digest import Digest, sha256_of
from micropod_img.errors import DiskError
from micropod_img.store.blobs import file_digest, is_hex
from micropod_img.store.trees import remove_tree, remove_tree_if_possible

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from micropod_img.store.blobs import BlobStore
    from micropod_img.store.layout import StoreLayout

_ELSEWHERE = "elsewhere"
_PRIVATE = re.compile(r"\..*\.micropod-[0-9a-f]{12}", re.DOTALL)


class Staging:
    """A private directory under ``tmp/``, locked while the ``with`` block runs, gone after it.

    Args:
        layout: The store's paths.
        purpose: First part of the directory's name, for people who look.
    """

    def __init__(self, layout: StoreLayout, purpose: str) -> None:
        self._layout = layout
        self._purpose = purpose
        self.path: Path = layout.staging / purpose
        self.descriptor = -1

    def __enter__(self) -> Self:
        try:
            with fsutil.disk_errors(self._layout.staging):
                while not self._take_place():
                    pass
        except BaseException:
            self._leave()
            raise
        return self

    def _take_place(self) -> bool:
        """Make the directory and lock it; a sweep that sees it before it is locked takes it for garbage."""
        self.path = self._layout.staging / f"{self._purpose}-{os.urandom(6).hex()}"
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            return False
        try:
            self.path.chmod(0o700)  # whatever the umask is
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        if fsutil.try_lock(self.descriptor) and fsutil.same_file(self.descriptor, self.path):
            return True
        self._close()
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        try:
            fsutil.insist(lambda: _remove_tree(self.path))
        finally:
            self._close()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def image_layout(self) -> Path:
        """The OCI layout that crane fills."""
        return self.path / "layout"

    @property
    def blobs(self) -> Path:
        """The blobs directory of that layout."""
        return self.image_layout / "blobs" / "sha256"

    def note_elsewhere(self, place: Path) -> None:
        """Note a private directory outside of the store that belongs to this place: it may hold links to blobs.

        If this process is killed, it is swept with the place.

        Args:
            place: Named as `private_name` names it, and not made yet.
        """
        with fsutil.disk_errors(self.path):
            (self.path / _ELSEWHERE).symlink_to(place)

    def probe_filesystem(self) -> None:
        """Prove that a file here can be linked into the blobs, before gigabytes are fetched that cannot.

        Raises:
            DiskError: A bind mount or another filesystem is in between, or there are no hard links here.
        """
        content = os.urandom(16)
        probe = self.path / "probe"
        # Its name is that of a blob, and true: should we be killed in between, it is one that gc takes.
        target = self._layout.blob(sha256_of(content))
        with fsutil.disk_errors(self._layout.images):
            probe.write_bytes(content)
            try:
                os.link(probe, target)
            except PermissionError as error:  # link(2): EPERM
                raise DiskError(
                    f"{self._layout.root} is on a filesystem that has no hard links, which images need",
                    code="no-hard-links",
                    hint="choose a --root on ext4, xfs, btrfs or another filesystem of Linux",
                    detail=str(error),
                ) from error
            finally:
                target.unlink(missing_ok=True)
                probe.unlink()


def sweep(layout: StoreLayout, blobs: BlobStore) -> None:
    """Remove what killed processes left in ``tmp/``; layers that had arrived whole become blobs, for the next try.

    What cannot be removed is left for another time: garbage must not keep anyone from their work.
    """
    for path in _paths_in(layout.staging):
        with contextlib.suppress(OSError):
            _sweep_one(layout, blobs, path)
    for path in _paths_in(layout.locks):
        if path.suffix == ".lock":
            with contextlib.suppress(OSError):
                _sweep_lock(path)


def _paths_in(directory: Path) -> list[Path]:
    with fsutil.disk_errors(directory), contextlib.suppress(FileNotFoundError):
        return list(directory.iterdir())
    return []


def _sweep_one(layout: StoreLayout, blobs: BlobStore, path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return
    path.chmod(0o700)  # as it is already, unless its maker was killed before it was
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if fsutil.try_lock_of_dead(descriptor) and fsutil.same_file(descriptor, path):
            with contextlib.suppress(OSError, DiskError):
                _salvage(layout, blobs, path / "layout" / "blobs" / "sha256")
            with contextlib.suppress(OSError, DiskError):
                sweep_private((path / _ELSEWHERE).readlink())
            _remove_tree(path)
    finally:
        os.close(descriptor)


def private_name(target: Path) -> str:
    """Return a name, for a directory beside a target, that says what it is to whoever finds it."""
    return f".{target.name[:100]}.micropod-{os.urandom(6).hex()}"


def sweep_private(place: Path) -> None:
    """Remove a private directory if it is one, of this user, and no process that lives holds its lock.

    Raises:
        OSError: It cannot be looked at.
        DiskError: It cannot be removed.
    """
    if _PRIVATE.fullmatch(place.name) is None:
        return
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        is_ours = os.fstat(descriptor).st_uid == os.geteuid()
        if is_ours and fsutil.try_lock_of_dead(descriptor) and fsutil.same_file(descriptor, place):
            remove_tree(place)
    finally:
        os.close(descriptor)


def _sweep_lock(path: Path) -> None:
    """Remove the lock file of a killed process as its next holder would (`locks.locked`): only while it is locked."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if fsutil.try_lock(descriptor) and fsutil.same_file(descriptor, path):
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
    # A child that was killed with its parent may put one more file into a directory that is being emptied. What is
    # still there then is the next sweep's: the work itself has succeeded, or failed, already.
    for _ in range(3):
        remove_tree_if_possible(path)
        if not path.exists():
            return
        _open_up(path)


def _open_up(path: Path) -> None:
    """Let the owner into every directory of a tree: images have some that only root may empty as they are."""
    with contextlib.suppress(OSError, RecursionError):
        path.chmod(0o700)
        for _, names, _, folder in os.fwalk(path, follow_symlinks=False):
            for name in names:
                with contextlib.suppress(OSError):  # a link, or gone meanwhile
                    _let_owner_into(name, folder)


def _let_owner_into(name: str, folder: int) -> None:
    """Change the mode of a directory, and of nothing that a link which takes its place would lead to."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101 - fchmod(2) takes no handle of a path
    finally:
        os.close(handle)
