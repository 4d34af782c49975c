"""System calls about mounts and namespaces that Python's os module does not have (mount(2), fsopen(2), setns(2), …).

The numbers of the new mount calls are the same on every architecture that Linux gained them on.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000
MNT_DETACH: Final = 0x2
UMOUNT_NOFOLLOW: Final = 0x8
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4

_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_AT_FDCWD = -100
_CLOEXEC_FLAG = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, path: str | bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Put a filesystem in place; see its manual page for the arguments.

    Raises:
        OSError: The kernel refused.
    """
    arguments = [os.fsencode(text) for text in (source, target, kind)]
    _checked(_libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data) if data else None), target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount as umount2(2) does; a symlink is not followed.

    Raises:
        OSError: The kernel refused.
    """
    _checked(_libc.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW), target)


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own (unshare(2)).

    Raises:
        OSError: The kernel refused.
    """
    _checked(_libc.unshare(flags))


def setns(descriptor: int, kind: int) -> None:
    """Join the namespace that a file of ``/proc/PID/ns`` is (setns(2)); os.setns came with Python 3.12.

    Raises:
        OSError: The kernel refused.
    """
    _checked(_libc.setns(descriptor, kind))


def sync_filesystem(path: Path) -> None:
    """Make everything durable that the filesystem of a directory holds (syncfs(2)).

    Raises:
        OSError: Writing failed, maybe of what others wrote.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _checked(_libc.syncfs(descriptor), str(path))
    finally:
        os.close(descriptor)


class FilesystemContext:
    """A mount that is being put together (fsopen(2)); close it, or use it in a ``with`` block.

    Args:
        kind: Type of the filesystem.

    Raises:
        OSError: The kernel has no such call or filesystem, or does not allow it.
    """

    def __init__(self, kind: str) -> None:
        self._descriptor = _checked(_libc.syscall(_SYS_FSOPEN, kind.encode(), _CLOEXEC_FLAG))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def set_string(self, key: str, value: str) -> None:
        """Set an option; its value has 255 bytes at most.

        Raises:
            OSError: The kernel does not know it, or does not like the value.
        """
        self._configure(_FSCONFIG_SET_STRING, key.encode(), os.fsencode(value))

    def set_flag(self, key: str) -> None:
        """Set an option without a value.

        Raises:
            OSError: The kernel does not know it.
        """
        self._configure(_FSCONFIG_SET_FLAG, key.encode(), None)

    def attach(self, target: str, attributes: int) -> None:
        """Make the filesystem and mount it.

        Args:
            target: An existing directory.
            attributes: ``MOUNT_ATTR_…``.

        Raises:
            OSError: The kernel refused.
        """
        self._configure(_FSCONFIG_CMD_CREATE, None, None)
        mounted = _checked(_libc.syscall(_SYS_FSMOUNT, self._descriptor, _CLOEXEC_FLAG, attributes))
        try:
            path = os.fsencode(target)
            flags = _MOVE_MOUNT_F_EMPTY_PATH
            _checked(_libc.syscall(_SYS_MOVE_MOUNT, mounted, b"", _AT_FDCWD, path, flags), target)
        finally:
            os.close(mounted)

    def messages(self) -> str:
        """Return what the kernel has said about this mount so far."""
        said: list[str] = []
        while True:
            try:
                line = os.read(self._descriptor, 4096)
            except OSError:  # ENODATA: there is no more
                return "; ".join(said)
            said.append(line.decode("utf-8", "replace").partition(" ")[2].strip())

    def _configure(self, command: int, key: bytes | None, value: bytes | None) -> None:
        _checked(_libc.syscall(_SYS_FSCONFIG, self._descriptor, command, key, value, 0))
