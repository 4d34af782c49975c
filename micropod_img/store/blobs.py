"""The blobs of the layout: each is what its name says, and is durable before anything refers to it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, TypeAlias

from micropod_img import fsutil
from micropod_img.digest import Digest, hex_of, sha256_of
from micropod_img.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from micropod_img.store.layout import StoreLayout

DOCUMENT_LIMIT = 8 << 20
"""Bytes of the largest manifest, index or configuration that is read."""

REPAIR_HINT = "pull the image again: what is missing or corrupt is fetched anew"
VERIFY_HINT = "micropod-img verify --repair"

FileIdentity: TypeAlias = tuple[int, int, int]
"""Device, inode and size in bytes."""

# What the kernel says of one place of a disk; all else of the store may be as it was.
_OF_A_BAD_MEDIUM = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})
_REHASH_LIMIT = 1 << 20


class BlobStore:
    """Blobs of one store.

    Args:
        layout: Where they are.
        bad: Files that were found to be other than their names say: as long as they stand there, their blobs are not
            here. Others who use the store know nothing of it.
    """

    def __init__(self, layout: StoreLayout, bad: Mapping[Digest, FileIdentity] | None = None) -> None:
        self._layout = layout
        self._bad = bad or {}

    def exists(self, digest: Digest) -> bool:
        """Whether anything stands in the place of a blob."""
        return self._layout.blob(digest).exists()

    def has(self, digest: Digest, size: int) -> bool:
        """Whether the blob is here with this size; its bytes were checked when it was published."""
        path = self._layout.blob(digest)
        with fsutil.disk_errors(path):
            try:
                status = path.lstat()
            except FileNotFoundError:
                return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size and not self._is_bad(digest, status)

    def read(self, digest: Digest, *, size: int | None = None) -> bytes:
        """Read a document and check that its bytes are what its name says.

        Args:
            digest: Its digest.
            size: Its size as another document says it.

        Raises:
            IntegrityError: It is missing, cannot be read any more, or its bytes or size are not those.
        """
        path = self._layout.blob(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise not_a_file(digest)
                with open(descriptor, "rb", closefd=False) as stream:
                    content = stream.read(DOCUMENT_LIMIT + 1)
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise missing_blob(digest) from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise not_a_file(digest) from error
            if error.errno in _OF_A_BAD_MEDIUM:
                raise IntegrityError(
                    f"blob {digest} cannot be read: {error.strerror}", code="unreadable-blob", hint=REPAIR_HINT
                ) from error
            raise fsutil.disk_error(error, path) from error
        if size is not None and len(content) != size and sha256_of(content) == digest:
            raise IntegrityError(
                f"blob {digest} has {len(content)} bytes, and what names it says {size}",
                code="wrong-size",
                hint=VERIFY_HINT,
            )
        if sha256_of(content) != digest or (size is not None and len(content) != size):
            raise IntegrityError(
                f"blob {digest} is corrupt: its bytes are not what its name says",
                code="corrupt-blob",
                hint=REPAIR_HINT,
            )
        return content

    def publish(self, staged: Path, digest: Digest) -> None:
        """Give a staged and checked file its place among the blobs, durably; its name is durable after `sync`.

        Args:
            staged: The file, whose bytes were checked against the digest. It is a second link of the blob afterwards:
                nothing takes the blob away as long as the staging place is there.
            digest: What it is.
        """
        target = self._layout.blob(digest)
        with fsutil.disk_errors(target):
            if self._leased(target, staged, digest):
                return
            descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                os.link(staged, target)
            except FileExistsError:
                if self._leased(target, staged, digest):  # somebody else published it just now
                    return
                # What stands there is not the blob: its size is wrong, or its owner found its bytes to be.
                replacement = staged.with_name(f"{staged.name}.replacement")
                os.link(staged, replacement)
                try:
                    replacement.rename(target)
                except IsADirectoryError as error:
                    raise not_a_file(digest) from error

    def sync(self) -> None:
        """Make the names of all published blobs durable."""
        with fsutil.disk_errors(self._layout.blobs):
            fsutil.fsync_directory(self._layout.blobs)

    def sizes(self) -> dict[Digest, int]:
        """Return the digest and size in bytes of every blob file; names that are no digest are left out."""
        sizes: dict[Digest, int] = {}
        with (
            fsutil.disk_errors(self._layout.blobs),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._layout.blobs) as entries,
        ):
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # taken away as we look
                    digest = Digest(f"sha256:{entry.name}")
                    status = entry.stat(follow_symlinks=False)
                    if is_hex(entry.name) and not self._is_bad(digest, status):
                        sizes[digest] = status.st_size
        return sizes

    def link_into(self, directory: Path, digests: Iterable[Digest]) -> None:
        """Hard-link blobs into a staging directory, so that a tool finds them there and nothing takes them away."""
        with fsutil.disk_errors(directory):
            for digest in digests:
                path = self._layout.blob(digest)
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode) and not self._is_bad(digest, status):
                        os.link(path, directory / hex_of(digest), follow_symlinks=False)

    def held_elsewhere(self, digest: Digest) -> bool:
        """Whether some staging place holds a link to the blob; it is then about to be used."""
        try:
            return self._layout.blob(digest).lstat().st_nlink > 1
        except FileNotFoundError:
            return False

    def _is_bad(self, digest: Digest, status: os.stat_result) -> bool:
        return digest in self._bad and self._bad[digest] == identity_of(status)

    def _holds(self, target: Path, staged: Path, digest: Digest) -> bool:
        """Whether the target is the blob already; small ones are read again: pulling is how users repair a document."""
        there, here = target.lstat(), staged.stat()
        if not stat.S_ISREG(there.st_mode) or self._is_bad(digest, there):
            return False
        if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
            return True
        if there.st_size != here.st_size:
            return False
        if there.st_size > _REHASH_LIMIT:
            return True
        try:
            return file_digest(target) == digest
        except OSError as error:
            if error.errno in _OF_A_BAD_MEDIUM:
                return False
            raise

    def _leased(self, target: Path, staged: Path, digest: Digest) -> bool:
        """Make a staged file a link of the blob, if that is there; return whether it was."""
        link = staged.with_name(f"{staged.name}.lease")
        try:
            if not self._holds(target, staged, digest):
                return False
            os.link(target, link)
        except FileNotFoundError:  # taken away as we looked
            return False
        link.rename(staged)
        link.unlink(missing_ok=True)  # rename(2) leaves both names when they are links of one file already
        return True


def missing_blob(digest: Digest) -> IntegrityError:
    """Return the error for a blob that another document needs and that is not here."""
    return IntegrityError(f"blob {digest} is missing", code="missing-blob", hint=REPAIR_HINT)


def not_a_file(digest: Digest) -> IntegrityError:
    """Return the error for a directory, link or the like in the place of a blob."""
    return IntegrityError(
        f"blob {digest} is not a file, but something else in its place",
        code="corrupt-blob",
        hint=VERIFY_HINT,
    )


def identity_of(status: os.stat_result) -> FileIdentity:
    """Return what tells a file from another one that takes its place later."""
    return status.st_dev, status.st_ino, status.st_size


def is_hex(name: str) -> bool:
    """Whether a file name is that of a sha256 blob."""
    return len(name) == 64 and not name.strip("0123456789abcdef")  # noqa: PLR2004 - 256 bits in hex


def file_digest(path: Path) -> Digest:
    """Return the sha256 digest of a file."""
    with path.open("rb", buffering=0) as stream:
        return Digest("sha256:" + hashlib.file_digest(stream, "sha256").hexdigest())
