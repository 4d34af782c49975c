"""What of a layer has passed the gate, for somebody who reads it meanwhile and gets no more than that.

There are two ways. Who reads the bytes as they are stored needs to know nothing in advance, but has to decompress them
once more. The uncompressed ones spare that, but only where it is known how many there will be.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.cancellation import Cancellation

_WAKE_SECONDS = 0.05


class NotPassedError(Exception):
    """The gate lets no more of a layer pass: it is refused, its bytes come once more, or it is of another size."""


class Passage(ABC):
    """The bytes of one layer between the gate, in one thread, and a reader in another.

    Args:
        size: How many bytes there are to be read.
        cancellation: Ends all waiting.
    """

    def __init__(self, size: int, cancellation: Cancellation) -> None:
        self.size: Final = size
        """Bytes to be read in all."""
        self._cancellation = cancellation
        self._lock = threading.Lock()
        self._readable = threading.Condition(self._lock)
        self._wanted: int | None = None
        self._unpacked_size = 0
        self._check_size: Callable[[int], None] = lambda _: None
        self._is_complete = False
        self._has_ended = False
        self._is_unread = False

    is_uncompressed: ClassVar[bool]
    """Whether the bytes that pass are the uncompressed ones."""

    @property
    def has_begun(self) -> bool:
        """Whether there is something to be read."""
        return self._passed_size() > 0 and not (self._has_ended or self._is_unread)

    @property
    def has_ended(self) -> bool:
        """Whether the gate lets no more pass, and has not let all pass."""
        return self._has_ended

    def check_size(self, check: Callable[[int], None]) -> None:
        """Ask somebody, from now on, whether so many uncompressed bytes may pass; what that raises, `passed` does."""
        self._check_size = check

    def passed(self, chunk: bytes, offset: int) -> None:
        """Let more be read.

        Args:
            chunk: The next uncompressed bytes, all of which may be read.
            offset: Up to where the stored bytes may be read.
        """
        self._unpacked_size += len(chunk)
        self._check_size(self._unpacked_size)
        with self._lock:
            if not (self._is_unread or self._has_ended):
                self._let_pass(chunk, offset)
            if self._has_ended or (self._wanted is not None and self._may_read(self._wanted)):
                self._readable.notify()

    def complete(self) -> None:
        """Let all be read that there is; if that cannot be all, it has ended."""
        with self._lock:
            self._is_complete = not self._has_ended and self._is_whole()
            self._has_ended = not self._is_complete
            self._readable.notify()

    def end(self) -> None:
        """Let nothing more be read, unless it is complete."""
        with self._lock:
            self._has_ended = not self._is_complete
            self._readable.notify()

    def read(self, offset: int, size: int) -> bytes:
        """Return as many bytes from an offset on, waiting until they have passed.

        Raises:
            NotPassedError: They will not.
            CancelledError: The work was called off.
        """
        end = offset + size
        with self._lock:
            if not self._may_read(end):
                self._wanted = end
                self._wait(self._readable, lambda: self._may_read(end) or self._has_ended or self._is_unread)
                self._wanted = None
            if self._is_unread or not self._may_read(end):
                raise NotPassedError
            return self._bytes(offset, size)

    def stop_reading(self) -> None:
        """Say that nobody reads this, or nobody any more, and let go of the bytes."""
        with self._lock:
            if not self._is_unread:
                self._is_unread = True
                self._let_go()
            self._readable.notify()

    def _may_read(self, end: int) -> bool:
        # The last byte waits for the verdict on all of them.
        return self._is_complete or end <= min(self._passed_size(), self.size - 1)

    def _wait(self, condition: threading.Condition, until: Callable[[], bool]) -> None:
        while not condition.wait_for(until, _WAKE_SECONDS):
            self._cancellation.check()

    @abstractmethod
    def _passed_size(self) -> int:
        """How many bytes have passed."""

    @abstractmethod
    def _is_whole(self) -> bool:
        """Whether what has passed can be all, now that nothing follows."""

    @abstractmethod
    def _let_pass(self, chunk: bytes, offset: int) -> None:
        """Let more pass, with the lock held."""

    @abstractmethod
    def _bytes(self, offset: int, size: int) -> bytes:
        """Return bytes that have passed, with the lock held."""

    @abstractmethod
    def _let_go(self) -> None:
        """Let go of the bytes, with the lock held; once."""


class StoredPassage(Passage):
    """The bytes as they are stored.

    Args:
        descriptor: An open file of them, which may still grow; it is closed when nobody reads any more.
        size: How many there will be.
        cancellation: Ends all waiting.
    """

    is_uncompressed = False

    def __init__(self, descriptor: int, size: int, cancellation: Cancellation) -> None:
        super().__init__(size, cancellation)
        self._descriptor = descriptor
        self._offset = 0

    def _passed_size(self) -> int:
        return self._offset

    def _is_whole(self) -> bool:
        return True

    def _let_pass(self, chunk: bytes, offset: int) -> None:  # noqa: ARG002 - see Passage
        self._offset = offset

    def _bytes(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def _let_go(self) -> None:
        os.close(self._descriptor)


class UncompressedPassage(Passage):
    """The uncompressed bytes, of which the gate is ahead of the reader by so much at most that they fit into memory.

    Args:
        size: How many there are; if that turns out to be wrong, nothing more passes.
        cancellation: Ends all waiting.
    """

    is_uncompressed = True
    AHEAD: Final = 16 << 20
    BEHIND: Final = 1 << 20  # the kernel may ask once more for what it has just read

    def __init__(self, size: int, cancellation: Cancellation) -> None:
        super().__init__(size, cancellation)
        self._chunks: deque[bytes] = deque()
        self._start = 0
        self._end = 0
        self._read_up_to = 0
        self._has_room = threading.Condition(self._lock)

    def _passed_size(self) -> int:
        return self._end

    def _is_whole(self) -> bool:
        return self._is_unread or self._end == self.size

    def _let_pass(self, chunk: bytes, offset: int) -> None:  # noqa: ARG002 - see Passage
        if self._end >= self._reader_is_at() + self.AHEAD:
            # Not for each chunk: the two threads would hinder one another.
            self._wait(self._has_room, lambda: self._is_unread or self._has_much_room())
        self._has_ended = self._has_ended or self._end + len(chunk) > self.size
        if not (self._has_ended or self._is_unread):
            self._chunks.append(chunk)
            self._end += len(chunk)

    def _has_much_room(self) -> bool:
        return self._end <= self._reader_is_at() + self.AHEAD // 2

    def _reader_is_at(self) -> int:
        return max(self._read_up_to, self._wanted or 0)

    def _bytes(self, offset: int, size: int) -> bytes:
        if offset < self._start:
            raise NotPassedError
        self._read_up_to = max(self._read_up_to, offset + size)
        if self._has_much_room():
            self._has_room.notify()
        while self._chunks and self._start + len(self._chunks[0]) + self.BEHIND <= offset:
            self._start += len(self._chunks.popleft())
        parts: list[bytes] = []
        start = self._start
        for chunk in self._chunks:
            if start + len(chunk) > offset:
                parts.append(chunk[max(0, offset - start) : offset + size - start])
            start += len(chunk)
            if start >= offset + size:
                break
        return b"".join(parts)

    def _let_go(self) -> None:
        self._chunks.clear()
        self._has_room.notify()
