"""Read every blob, and say which are not what their names say."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import progress
from micropod_img.digest import Digest, hex_of
from micropod_img.store.blobs import identity_of, is_hex

if TYPE_CHECKING:
    from io import FileIO

    from micropod_img.cancellation import Cancellation
    from micropod_img.progress import ProgressSink
    from micropod_img.store.blobs import FileIdentity
    from micropod_img.store.layout import StoreLayout

_CHUNK = 1 << 18
_WAKE_SECONDS = 0.1
_TELL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a file is not the blob that its name says: a code of `micropod_img.problems`, and the end of a sentence."""

    code: str
    what: str


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A file in a blob's place, as it was when the directory was listed.

    Attributes:
        size: Its bytes.
        status: What tells it from another one that took its place.
        mode: Its type and permission bits.
        owner: Its user's id.
    """

    size: int
    status: FileIdentity
    mode: int
    owner: int


class BlobVerification:
    """The blobs of one store; each file is read once, however often it is asked for.

    Args:
        layout: Where they are.
        sink: Is told of progress.
        cancellation: Ends the reading.
    """

    def __init__(self, layout: StoreLayout, sink: ProgressSink, cancellation: Cancellation) -> None:
        self._layout = layout
        self._sink = sink
        self._cancellation = cancellation
        self._read: dict[Digest, tuple[FileIdentity, Fault | None]] = {}
        self.bytes_read = 0
        self.files: dict[Digest, BlobFile] = {}

    def list_files(self) -> None:
        """Take note of what stands in the places of blobs now."""
        files: dict[Digest, BlobFile] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._layout.blobs) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # taken away as we look
                    if is_hex(entry.name):
                        status = entry.stat(follow_symlinks=False)
                        files[Digest(f"sha256:{entry.name}")] = BlobFile(
                            status.st_size, identity_of(status), status.st_mode, status.st_uid
                        )
        self.files = files

    def read_all(self) -> bool:
        """Read every listed file that was not read yet, on all processors, the large ones first.

        Returns:
            Whether there were any.
        """
        unread = {digest: file for digest, file in self.files.items() if self._is_to_be_read(digest, file)}
        if not unread:
            return False
        total = sum(file.size for file in unread.values())
        self._sink(progress.VerifyStarted(len(unread), total))
        queue = deque(sorted(unread, key=lambda digest: unread[digest].size, reverse=True))
        tell = _Progress(self._sink, total)
        workers = min(len(os.sched_getaffinity(0)), len(queue))
        executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="verify")
        try:
            running = [executor.submit(self._work, queue, tell) for _ in range(workers)]
            # With a timeout: the kernel may give a signal to any thread, and Python sees it when this one wakes.
            while wait(running, _WAKE_SECONDS).not_done:
                pass
            for one in running:
                one.result()
        except BaseException:
            self._cancellation.cancel()
            raise
        finally:
            executor.shutdown(cancel_futures=True)
        self.bytes_read += tell.done
        self._sink(progress.VerifyProgress(total, total))
        return True

    def fault(self, digest: Digest) -> Fault | None:
        """Return what is wrong with a listed file.

        One that came after `read_all` has nothing wrong but its size: who published it just now has checked its bytes.
        """
        file = self.files[digest]
        if not stat.S_ISREG(file.mode):
            return Fault("not-a-file", f"is {_kind(file.mode)} and not a file")
        known = self._read.get(digest)
        return known[1] if known is not None and known[0] == file.status else None

    @property
    def count(self) -> int:
        """How many files were read."""
        return len(self._read)

    def _is_to_be_read(self, digest: Digest, file: BlobFile) -> bool:
        known = self._read.get(digest)
        is_known = known is not None and known[0] == file.status
        could_not_be_read = known is not None and known[1] is not None and known[1].code == "unreadable-blob"
        return stat.S_ISREG(file.mode) and (not is_known or could_not_be_read)

    def _work(self, queue: deque[Digest], tell: _Progress) -> None:
        buffer = memoryview(bytearray(_CHUNK))
        with contextlib.suppress(IndexError):
            while True:
                digest = queue.popleft()
                with contextlib.suppress(FileNotFoundError):  # taken away meanwhile: the next listing knows
                    self._read[digest] = self._verdict(digest, buffer, tell)

    def _verdict(self, digest: Digest, buffer: memoryview, tell: _Progress) -> tuple[FileIdentity, Fault | None]:
        path = self._layout.blob(digest)
        status = self.files[digest].status
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            return status, Fault("unreadable-blob", f"cannot be read: {error.strerror}")
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            status = identity_of(os.fstat(descriptor))
            try:
                found = self._hash(stream, buffer, tell)
            except OSError as error:
                return status, Fault("unreadable-blob", f"cannot be read: {error.strerror}")
        if found == hex_of(digest):
            return status, None
        return status, Fault("corrupt-blob", "has other bytes than its name says" if status[2] else "is empty")

    def _hash(self, stream: FileIO, buffer: memoryview, tell: _Progress) -> str:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        running = hashlib.sha256()
        while count := stream.readinto(buffer):
            running.update(buffer[:count])
            self._cancellation.check()
            tell.add(count)
        return running.hexdigest()


class _Progress:
    """Adds up what the threads have read, and tells of it now and then."""

    def __init__(self, sink: ProgressSink, total: int) -> None:
        self.done = 0
        self._sink = sink
        self._total = total
        self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            now = time.monotonic()
            if now - self._told >= _TELL_SECONDS:
                self._told = now
                self._sink(progress.VerifyProgress(min(self.done, self._total), self._total))


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a symbolic link" if stat.S_ISLNK(mode) else "something else"
