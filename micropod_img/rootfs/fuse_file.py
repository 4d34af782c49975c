"""One file that is read-only and whose bytes come from a function, which may let its readers wait.

The kernel's FUSE protocol (linux/fuse.h; fuse(4)), as far as a filesystem needs it whose root is a regular file, and
the only one. It is mounted over an empty file, and served by a thread of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from micropod_img.rootfs import syscalls
from micropod_img.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DEVICE: Final = "/dev/fuse"
_MODE: Final = stat.S_IFREG | 0o444
_ROOT: Final = 1
_MAJOR, _MINOR = 7, 31  # of Linux 5.4
_ASYNC_READ: Final = 1
_NO_FLUSH: Final = 1 << 5  # closing it asks nothing, so nobody who closes it waits for a read
_LARGEST_REQUEST: Final = 1 << 16
_LARGEST_WRITE: Final = 1 << 12  # nothing is written, but the kernel wants to know
_VALID_SECONDS: Final = 1 << 30
_INVALIDATE_INODE: Final = 2
_KEPT_BEHIND: Final = 2 << 20
_BLOCK, _PAGE = 512, 4096  # the unit of st_blocks, and what is good to read at once

_REQUEST = struct.Struct("=IIQQIIIHH")  # fuse_in_header: length, opcode, unique, node, …
_ANSWER = struct.Struct("=IiQ")  # fuse_out_header: length, error, unique
_INIT_REQUEST = struct.Struct("=IIII")  # fuse_init_in: major, minor, max_readahead, flags, …
_INIT_ANSWER = struct.Struct("=IIIIHHIIHH32x")  # fuse_init_out
_READ_REQUEST = struct.Struct("=QQI")  # fuse_read_in: fh, offset, size, …
_OPEN_ANSWER = struct.Struct("=QII")  # fuse_open_out
_INVALIDATION = struct.Struct("=Qqq")  # fuse_notify_inval_inode_out: node, offset, length
_ATTRIBUTES = struct.Struct("=QII6Q10I")  # fuse_attr_out: how long it is valid, and fuse_attr


class _Opcode(IntEnum):
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


_WITHOUT_ANSWER: Final = frozenset((_Opcode.FORGET, _Opcode.INTERRUPT, _Opcode.DESTROY, _Opcode.BATCH_FORGET))


class FuseUnavailableError(Exception):
    """Nothing can be served here: there is no ``/dev/fuse``, or this process may not use it; the cause says which."""


@contextlib.contextmanager
def served_file(path: Path, size: int, read: Callable[[int, int], bytes]) -> Iterator[None]:
    """Give an empty file its bytes for as long as the block runs, in the mount namespace of the calling thread.

    This process must not open the file: a child that it starts would have to close it, and wait for this very process.

    Args:
        path: An empty file, seen by nobody else, for one program that reads it once from front to back.
        size: Bytes that the file is said to have.
        read: Is given an offset and a number of bytes, all of them inside of the file, and returns these; may wait, and
            is called by one thread. What it raises, the reader gets as an input/output error. When the block ends, it
            must not wait any more.

    Raises:
        FuseUnavailableError: It cannot be done here.
    """
    with contextlib.ExitStack() as held:
        with contextlib.ExitStack() as opened:
            try:
                device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
                opened.callback(os.close, device)
                options = f"fd={device},rootmode={_MODE:o},user_id={os.geteuid()},group_id={os.getegid()}"
                flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
                syscalls.mount("micropod", str(path), "fuse", flags, options)
            except OSError as error:
                raise FuseUnavailableError from error
            held.callback(syscalls.umount, str(path), syscalls.MNT_DETACH)
            wake = os.eventfd(0)
            held.callback(os.close, wake)
            server = Work(_Server(device, wake, size, read).run, name="fuse-file")
            held.callback(server.end)
            held.callback(os.eventfd_write, wake, 1)
            server.start()
            opened.pop_all()  # the server closes it
        yield


class _UnknownRequestError(Exception):
    """The kernel asks what this does not know; it then does without."""


class _Server:
    """Answers what the kernel asks about the file, one question after the other."""

    def __init__(self, device: int, wake: int, size: int, read: Callable[[int, int], bytes]) -> None:
        self._device = device
        self._wake = wake
        self._size = size
        self._read = read
        self._dropped = 0

    def run(self) -> None:
        """Serve until somebody wakes this; then, and whatever goes wrong, readers get an error and do not wait."""
        try:
            self._serve()
        finally:
            os.close(self._device)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while self._wake not in dict(poll.poll()):
            try:
                request = os.read(self._device, _LARGEST_REQUEST)
            except (BlockingIOError, InterruptedError, FileNotFoundError):  # ENOENT: who asked has gone
                continue
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, *_ = _REQUEST.unpack_from(request)
        if opcode in _WITHOUT_ANSWER:
            return
        failure, answer = 0, b""
        try:
            answer = self._answer_to(opcode, request)
        except _UnknownRequestError:
            failure = errno.ENOSYS
        except Exception:  # noqa: BLE001 - whoever gave `read` knows more; to a reader nothing else can be said
            failure = errno.EIO
        with contextlib.suppress(FileNotFoundError):  # who asked has gone
            os.writev(self._device, [_ANSWER.pack(_ANSWER.size + len(answer), -failure, unique), answer])

    def _answer_to(self, opcode: int, request: bytes) -> bytes:
        match opcode:
            case _Opcode.READ:
                _, offset, size = _READ_REQUEST.unpack_from(request, _REQUEST.size)
                self._drop_before(offset - _KEPT_BEHIND)
                size = min(size, self._size - offset)
                return self._read(offset, size)[:size] if size > 0 else b""
            case _Opcode.GETATTR:
                return self._attributes()
            case _Opcode.OPEN:
                return _OPEN_ANSWER.pack(0, _NO_FLUSH, 0)
            case _Opcode.RELEASE | _Opcode.FLUSH:
                return b""
            case _Opcode.INIT:
                _, _, readahead, flags = _INIT_REQUEST.unpack_from(request, _REQUEST.size)
                return _INIT_ANSWER.pack(_MAJOR, _MINOR, readahead, flags & _ASYNC_READ, 0, 0, _LARGEST_WRITE, 1, 0, 0)
            case _:
                raise _UnknownRequestError

    def _drop_before(self, offset: int) -> None:
        """Let the kernel forget what was read: each byte is needed once, and pages that are used again are cheap.

        There is one reader, who goes from front to back: for pages that another has locked far behind this would wait.
        """
        if offset >= self._dropped + _KEPT_BEHIND:
            notice = _INVALIDATION.pack(_ROOT, self._dropped, offset - self._dropped)
            with contextlib.suppress(OSError):  # it may know nothing of that file any more
                os.writev(self._device, [_ANSWER.pack(_ANSWER.size + len(notice), _INVALIDATE_INODE, 0), notice])
            self._dropped = offset

    def _attributes(self) -> bytes:
        blocks = -(-self._size // _BLOCK)
        times = (0,) * 6  # seconds and nanoseconds of access, modification and change
        owner = os.geteuid(), os.getegid()
        return _ATTRIBUTES.pack(_VALID_SECONDS, 0, 0, _ROOT, self._size, blocks, *times, _MODE, 1, *owner, 0, _PAGE, 0)
