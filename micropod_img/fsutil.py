"""Files that survive a crash: durable writes, private directories, and what locks are made of."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from micropod_img.errors import DiskError
from micropod_img.invoker import invoking_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


_SHORT_POLL_SECONDS = 0.005
_COPY_BYTES = 1 << 20

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the kernel says where a disk, or a quota, is used up."""

DISK_FULL: Final = "disk-full"
"""The code of the error for a disk, or a quota, that is used up."""

_DISK_CODES = {
    errno.ENOSPC: (DISK_FULL, "the disk is full", "free some space, or choose another --root"),
    errno.EDQUOT: (DISK_FULL, "the disk quota is used up", "free some space, or choose another --root"),
    errno.EROFS: ("read-only", "the filesystem is read-only", "choose another --root"),
    errno.EACCES: ("permission", "permission denied", "run as the store's owner, or choose another --root"),
    errno.EPERM: ("permission", "operation not permitted", "run as the store's owner, or choose another --root"),
    errno.EXDEV: (
        "several-filesystems",
        "images/, snapshots/ and tmp/ must be on one filesystem",
        "mount the whole state directory, not a part of it",
    ),
}


def disk_error(error: OSError, path: Path | str) -> DiskError:
    """Translate an operating system error about a path of the store into one that says what to do."""
    code, what, hint = _DISK_CODES.get(error.errno or 0, ("disk", error.strerror or str(error), None))
    return DiskError(f"{path}: {what}", code=code, hint=hint, detail=str(error))


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Translate operating system errors inside the block; ``path`` is named where the error names none."""
    try:
        yield
    except ConnectionError:  # of a callback that tells of progress, to a reader who went away
        raise
    except OSError as error:
        raise disk_error(error, error.filename if isinstance(error.filename, str) else path) from error


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """What this user may still write to a filesystem.

    Attributes:
        size: Bytes; as many as can be where the filesystem does not say, as ramfs does not.
        files: How many files and directories; None where there is no limit but the space.
    """

    size: int
    files: int | None


def free_space(path: Path) -> FreeSpace:
    """Return what is free on the filesystem of an existing path (statvfs(3))."""
    status = os.statvfs(path)
    is_root = invoking_uid() == 0  # for whom a part is reserved
    size = status.f_frsize * (status.f_bfree if is_root else status.f_bavail) if status.f_blocks else sys.maxsize
    files = status.f_ffree if is_root else status.f_favail
    return FreeSpace(size, files if status.f_files else None)


def require_space(path: Path, size: int, *, files: int = 0, for_what: str, free: FreeSpace | None = None) -> None:
    """Compare what is needed with what is free, before time is spent on what cannot end well.

    Args:
        path: Existing, on the filesystem that is written to.
        size: Bytes that are needed.
        files: How many files and directories are, as far as that is known.
        for_what: Who needs them, as the subject of a sentence.
        free: What was free when the need arose; what is free now, unless given.

    Raises:
        DiskError: There is less.
    """
    if free is None:
        with disk_errors(path):
            free = free_space(path)
    if size > free.size:
        raise _too_little(path, f"{for_what} needs {size} bytes more, and {path} has {free.size} free")
    if free.files is not None and files > free.files:
        raise _too_little(path, f"{for_what} needs {files} files more, and {path} has inodes for {free.files}")


def _too_little(path: Path, message: str) -> DiskError:
    hint = "free some space (micropod-img gc, rmi), or use another --root"
    return DiskError(message, code=DISK_FULL, hint=hint, stage="plan", detail=f"df {path}; df -i {path}")


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable (fsync(2): a file's own fsync does not)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a new file and make its content, not yet its name, durable."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fchmod(descriptor, mode)  # whatever the umask is
        os.fsync(descriptor)


def replace_durably(path: Path, content: bytes, *, staging: Path, mode: int = 0o644) -> None:
    """Replace a file so that a reader, and a machine that lost power, finds the old content or the new, never less.

    Args:
        path: The file.
        content: Its new content.
        staging: A name on the same filesystem that nobody else uses; it is gone afterwards. What a process that was
            killed left there does not matter.
        mode: Permission bits, independent of the umask.
    """
    staging.unlink(missing_ok=True)
    try:
        write_durably(staging, content, mode=mode)
        staging.rename(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def memory_file(name: str, content: bytes) -> int:
    """Return the descriptor of a file without a place in any directory, gone with the last process that has it open."""
    descriptor = os.memfd_create(name)
    with os.fdopen(descriptor, "wb", closefd=False) as stream:
        stream.write(content)
    return descriptor


def insist(clean_up: Callable[[], None]) -> None:
    """Clean up, and once more if an interrupt broke into it; the command line raises no other one soon after."""
    try:
        clean_up()
    except Exception:
        raise
    except BaseException:
        clean_up()
        raise


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file, or of what a link leads to, to a file that is not there yet."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream, source.open("rb") as content:
        while chunk := content.read(_COPY_BYTES):
            stream.write(chunk)


def make_directory(path: Path, *, mode: int = 0o700) -> None:
    """Make a directory unless it is there, its mode independent of the umask; and its parents, no wider than 0755."""
    if path.is_dir():
        return
    for parent in reversed(path.parents):
        with contextlib.suppress(FileExistsError):
            if not parent.exists():
                parent.mkdir(mode=0o755)
    try:
        path.mkdir(mode=mode)
        path.chmod(mode)
    except FileExistsError:
        if not path.is_dir():
            raise


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take an advisory lock (flock(2)) on an open file if that needs no waiting; return whether it was taken."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock_of_dead(descriptor: int, *, patience: float = 1.0) -> bool:
    """Take a lock if nobody alive has it; return whether it was taken.

    Children that inherited a lock die with the process that took it, but a moment later. That moment is waited for.

    Args:
        descriptor: The open file.
        patience: Seconds to wait at most for such children: where nothing lets them die, they go on for long.
    """
    until = time.monotonic() + patience
    while not try_lock(descriptor):
        if not _was_locked_by_dead(descriptor) or time.monotonic() > until:
            return try_lock(descriptor)  # it may have gone between the two looks
        time.sleep(_SHORT_POLL_SECONDS)
    return True


def _was_locked_by_dead(descriptor: int) -> bool:
    """Whether whoever took the lock of an open file has ended, as far as the kernel tells (proc(5), "locks")."""
    process = process_that_locks(descriptor)
    return process is not None and not _is_alive(process)


def process_that_locks(descriptor: int) -> int | None:
    """Return who took the lock of an open file, as far as the kernel tells (proc(5), "locks")."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as locks:  # noqa: PTH123 - start-up
        for _, kind, _, _, process, file, *_ in map(str.split, locks):
            if kind == "FLOCK" and file == place:
                return int(process)
    return None


def _is_alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as status:  # noqa: PTH123 - the same
            return status.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def same_file(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file, and not another one that took its place."""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
