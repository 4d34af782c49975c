"""Paths inside a root filesystem, resolved as a process inside it would and never out of it.

An image chooses its links: ``/etc/passwd`` may point to ``/usr/etc/passwd``, which is fine, or to
``../../../etc/passwd``, which must not be the host's. The kernel resolves with the directory as the root (openat2(2),
RESOLVE_IN_ROOT, Linux 5.6); where that is missing or forbidden, one component at a time is opened without following.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_SYS_OPENAT2: Final = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_IN_ROOT: Final = 0x10
_MAX_LINKS: Final = 40  # path_resolution(7)
_ATTEMPTS: Final = 32
# Seccomp profiles of containers forbid what they do not know, with one of these.
_NOT_HERE: Final = (errno.ENOSYS, errno.EPERM)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class ConfinedRoot:
    """A directory whose paths lead nowhere else; a context manager.

    Args:
        path: The directory; trusted, and followed if it is a link.
        use_openat2: Whether the kernel resolves; without it one component at a time is opened.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, *, use_openat2: bool = True) -> None:
        self._use_openat2 = use_openat2
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._root)

    def read_file(self, path: str, *, limit: int) -> bytes | None:
        """Read a regular file.

        Args:
            path: Its path inside; with or without a slash in front.
            limit: Bytes that it may have.

        Returns:
            Its content; None if it is not there, is no regular file or lies behind a broken or endless link.

        Raises:
            OSError: It cannot be read; ``EFBIG`` if it has more bytes than it may.
        """
        try:
            # Looked at before it is opened: opening a FIFO waits, and opening a device may do something.
            with self._opened(path) as handle:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    return None
                with open(f"/proc/self/fd/{handle}", "rb") as file:  # noqa: PTH123 - a descriptor opened once more
                    content = file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                return None
            raise
        if len(content) > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return content

    def make_directory(self, path: str) -> None:
        """Make a directory, mode 0755, and those above it, unless they are there.

        Args:
            path: Its path inside, without ``..``.

        Raises:
            OSError: It cannot be made; ``NotADirectoryError`` or ``FileExistsError`` if something else has the name.
        """
        parts = [part for part in path.split("/") if part]
        for depth in range(1, len(parts) + 1):
            try:
                with self._opened("/".join(parts[:depth]), os.O_DIRECTORY):
                    continue
            except FileNotFoundError:
                with self._opened("/".join(parts[: depth - 1])) as parent:
                    os.mkdir(parts[depth - 1], 0o755, dir_fd=parent)
                    made = os.open(parts[depth - 1], os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                os.fchmod(made, 0o755)  # whatever the umask is
                os.close(made)

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int = 0) -> Iterator[int]:
        """Open a path inside as a handle (O_PATH) for as long as the block lasts."""
        flags |= os.O_PATH | os.O_CLOEXEC
        handle = self._resolve_by_kernel(path, flags) if self._use_openat2 else None
        if handle is None:
            handle = self._resolve_by_steps(path, flags)
        try:
            yield handle
        finally:
            os.close(handle)

    def _resolve_by_kernel(self, path: str, flags: int) -> int | None:
        libc = ctypes.CDLL(None, use_errno=True)
        how = _OpenHow(flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        name = ctypes.c_char_p(os.fsencode(path or "."))
        for _ in range(_ATTEMPTS):
            handle = int(
                libc.syscall(
                    ctypes.c_long(_SYS_OPENAT2),
                    ctypes.c_int(self._root),
                    name,
                    ctypes.byref(how),
                    ctypes.c_size_t(ctypes.sizeof(how)),
                )
            )
            if handle >= 0:
                return handle
            number = ctypes.get_errno()
            if number in _NOT_HERE:
                self._use_openat2 = False
                return None
            if number != errno.EAGAIN:  # somebody renamed something on the way
                raise OSError(number, os.strerror(number), path)
        return None

    def _resolve_by_steps(self, path: str, flags: int) -> int:
        parts = path.split("/")[::-1]
        links = 0
        opened = [os.dup(self._root)]  # from the root down to where the walk is
        try:
            while parts:
                part = parts.pop()
                if part == "..":
                    _close_above(opened, max(len(opened) - 1, 1))
                elif part not in ("", "."):
                    opened.append(os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened[-1]))
                if stat.S_ISLNK(os.fstat(opened[-1]).st_mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    target = os.readlink("", dir_fd=opened[-1])
                    _close_above(opened, 1 if target.startswith("/") else len(opened) - 1)
                    parts += target.split("/")[::-1]
            if flags & os.O_DIRECTORY and not stat.S_ISDIR(os.fstat(opened[-1]).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            return opened.pop()
        finally:
            _close_above(opened, 0)


def _close_above(descriptors: list[int], depth: int) -> None:
    """Close what is above a depth of the stack."""
    while len(descriptors) > depth:
        os.close(descriptors.pop())
