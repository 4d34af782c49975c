"""Where the layers of an image are read from: files that are here, or files that are still being written."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from micropod_img.digest import Digest, hex_of
from micropod_img.fsutil import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from io import FileIO
    from pathlib import Path

    from _typeshed import WriteableBuffer

    from micropod_img.cancellation import Cancellation
    from micropod_img.rootfs.layer_stream import BinaryStream
    from micropod_img.store.blobs import BlobStore

_POLL_SECONDS = 0.01


class LayerLostError(Exception):
    """What was read of a layer are not its bytes; they come once more."""


class LayerReading(Protocol):
    """One reading of a layer, from front to back."""

    @property
    def stream(self) -> BinaryStream:
        """Its bytes; reading raises `LayerLostError` when they turn out to be none of the layer's."""

    @property
    def descriptor(self) -> int:
        """The open file of these bytes."""

    @property
    def is_growing(self) -> bool:
        """Whether more of them may come."""

    def verified(self) -> Path:
        """Wait until it is known that these bytes are the layer's, and return a private link to them.

        Raises:
            LayerLostError: They are not.
            CancelledError: The work was called off.
        """


class LayerSource(Protocol):
    """The layers of one image."""

    def reading(self, digest: Digest) -> AbstractContextManager[LayerReading]:
        """Read a layer, waiting for it if need be."""


class HeldLayers:
    """Layers that are here.

    Args:
        directory: A private directory with a link to each of them, named by its hex digits.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextlib.contextmanager
    def reading(self, digest: Digest) -> Iterator[LayerReading]:
        """Open a layer."""
        path = self._directory / hex_of(digest)
        with disk_errors(path), path.open("rb", buffering=0) as stream:
            yield _HeldReading(stream, path)


@dataclass(frozen=True, slots=True)
class _HeldReading:
    stream: FileIO
    path: Path

    @property
    def descriptor(self) -> int:
        return self.stream.fileno()

    @property
    def is_growing(self) -> bool:
        return False

    def verified(self) -> Path:
        return self.path


class _State(Enum):
    GROWING = auto()
    LOST = auto()
    HERE = auto()


@dataclass(slots=True)
class _Arrival:
    """One attempt to bring a layer: the file that is written, and what became of it."""

    path: Path
    state: _State = _State.GROWING


class ArrivingLayers:
    """Layers that somebody brings, who calls `growing`, `lost` and `arrived` (`micropod_img.arrivals`).

    Args:
        blobs: Where a layer is when it has arrived.
        directory: A private directory, which keeps a link to each layer that has arrived.
        cancellation: Ends the waiting.
    """

    def __init__(self, blobs: BlobStore, directory: Path, cancellation: Cancellation) -> None:
        self._blobs = blobs
        self._directory = directory
        self._cancellation = cancellation
        self._arrivals: dict[Digest, _Arrival] = {}
        self._lock = threading.Lock()

    def growing(self, digest: Digest, path: Path) -> None:
        """Take note of the file that a layer is being written to."""
        with self._lock:
            self._arrivals[digest] = _Arrival(path)

    def lost(self, digest: Digest) -> None:
        """Take note that what was written of a layer are not its bytes."""
        with self._lock:
            self._arrivals[digest].state = _State.LOST

    def arrived(self, digest: Digest) -> None:
        """Link a layer that is here, so that nobody takes it away."""
        self._blobs.link_into(self._directory, [digest])
        with self._lock:
            arrival = self._arrivals.setdefault(digest, _Arrival(self._directory / hex_of(digest)))
            arrival.path = self._directory / hex_of(digest)
            arrival.state = _State.HERE

    @contextlib.contextmanager
    def reading(self, digest: Digest) -> Iterator[LayerReading]:
        """Open a layer as soon as its first bytes may be there."""
        while True:
            with self._lock:
                arrival = self._arrivals.get(digest)
                stream = None if arrival is None or arrival.state is _State.LOST else _opened(arrival)
            if arrival is not None and stream is not None:
                break
            self._cancellation.sleep(_POLL_SECONDS)
        with stream:
            yield _ArrivingReading(arrival, stream, self._cancellation)


def _opened(arrival: _Arrival) -> FileIO | None:
    try:
        return arrival.path.open("rb", buffering=0)
    except FileNotFoundError:  # it has just got the name that `arrived` will tell
        if arrival.state is _State.HERE:
            raise
        return None


class _ArrivingReading:
    """Bytes of a file that may still grow.

    Args:
        arrival: What becomes of it.
        file: The open file.
        cancellation: Ends the waiting.
    """

    def __init__(self, arrival: _Arrival, file: FileIO, cancellation: Cancellation) -> None:
        self._arrival = arrival
        self._file = file
        self._cancellation = cancellation

    @property
    def stream(self) -> BinaryStream:
        return self

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    @property
    def is_growing(self) -> bool:
        return self._arrival.state is _State.GROWING

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer as far as possible, waiting while there is nothing; 0 is the end of the layer."""
        while True:
            state = self._arrival.state  # before reading: what was there by then is read
            count = self._file.readinto(buffer) or 0
            if count or state is _State.HERE:
                return count
            self._wait(state)

    def verified(self) -> Path:
        while self._arrival.state is not _State.HERE:
            self._wait(self._arrival.state)
        return self._arrival.path

    def _wait(self, state: _State) -> None:
        if state is _State.LOST:
            raise LayerLostError
        self._cancellation.sleep(_POLL_SECONDS)
