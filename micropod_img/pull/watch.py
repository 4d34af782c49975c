"""Watch a fetch from outside: what its files say of how far it is, and when to give it up."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from micropod_img import fsutil, progress
from micropod_img.digest import hex_of
from micropod_img.errors import UnavailableError
from micropod_img.pull.crane import TimeLimits, timed_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.oci import Descriptor
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.crane_errors import Request
    from micropod_img.store.blobs import BlobStore

TICK_SECONDS = 0.05


class Watchdog:
    """Gives a fetch or a push up that was called off, stalls, or takes too long.

    Args:
        request: What is fetched or pushed, in words.
        limits: How long it may take.
        cancellation: Calls it off.
        stalled: Makes the error for one that stalled for so many seconds.
    """

    def __init__(
        self,
        request: Request,
        limits: TimeLimits,
        cancellation: Cancellation,
        stalled: Callable[[Request, float], UnavailableError],
    ) -> None:
        self._request = request
        self._limits = limits
        self._cancellation = cancellation
        self._stalled = stalled
        self._last_growth = time.monotonic()

    def check(self, *, grown: bool) -> None:
        """Let it go on, or raise.

        Args:
            grown: Whether anything has gone over the network since the last time.

        Raises:
            CancelledError: It was called off.
            UnavailableError: It stalls, or takes too long.
        """
        self._cancellation.check()
        now = time.monotonic()
        if grown:
            self._last_growth = now
        if now - self._last_growth > self._limits.stall_timeout:
            raise self._stalled(self._request, self._limits.stall_timeout)
        if self._limits.expired():
            raise timed_out(self._request, self._limits)


def fetch_stalled(request: Request, seconds: float) -> UnavailableError:
    """Return the error for a fetch that was sent nothing for so many seconds."""
    return UnavailableError(
        f"{request.endpoint} sent nothing for {seconds:g} s ({request.ref})",
        code="stalled",
        hint="try again: layers that arrived whole are kept",
        stage="fetch",
        endpoint=request.endpoint,
        retryable=True,
    )


class LayerWatch:
    """Reads from the sizes of files what has arrived: ``<hex><anything>`` while it is written, then ``<hex>``.

    Args:
        ref: The reference, for who is told of progress.
        directory: Where the files are.
        blobs: Where complete layers go.
        layers: The layers that are missing.
        sink: Is told of progress.
        on_arrival: Is told of each layer that is complete.
    """

    def __init__(
        self,
        *,
        ref: str,
        directory: Path,
        blobs: BlobStore,
        layers: Iterable[Descriptor],
        sink: ProgressSink,
        on_arrival: Callable[[Digest], None] = lambda _digest: None,
    ) -> None:
        self._ref = ref
        self._directory = directory
        self._blobs = blobs
        self._pending = {hex_of(layer.digest): layer for layer in layers}
        self._received = dict.fromkeys(self._pending, -1)
        self._sink = sink
        self._on_arrival = on_arrival

    def received(self, digest: Digest) -> int:
        """Return how many bytes of a layer had arrived when this looked last."""
        return max(self._received[hex_of(digest)], 0)

    def look(self) -> bool:
        """Look once, publish what is complete; return whether anything has grown since the last time.

        A file under a blob's own name that has another size is what the store had: crane will replace it.
        """
        sizes: dict[str, int] = {}
        complete: list[str] = []
        gone = contextlib.suppress(FileNotFoundError)
        with fsutil.disk_errors(self._directory), gone, os.scandir(self._directory) as entries:
            for entry in entries:
                name = entry.name[:64]
                if name not in self._pending:
                    continue
                with contextlib.suppress(FileNotFoundError):  # crane renames as we look
                    size = entry.stat().st_size
                    if entry.name == name and size != self._pending[name].size:
                        continue
                    sizes[name] = max(sizes.get(name, 0), size)
                    if entry.name == name:
                        complete.append(name)
                    elif sizes[name] > self._received[name]:
                        # What must be durable in the end goes to the disk while crane waits for the network.
                        fsutil.fsync_file(self._directory / entry.name)
        grown = False
        for name, size in sizes.items():
            if size != self._received[name]:
                self._received[name] = size
                grown = True
                layer = self._pending[name]
                if name not in complete:
                    # All of its bytes may be there, and crane has not said yet whether they are the right ones.
                    received = min(size, max(layer.size - 1, 0))
                    self._sink(progress.LayerProgress(self._ref, layer.digest, received, layer.size))
        for name in complete:
            self._publish(name)
        return grown

    def _publish(self, name: str) -> None:
        layer = self._pending[name]
        path = self._directory / name
        self._blobs.publish(path, layer.digest)
        del self._pending[name]
        self._sink(progress.LayerProgress(self._ref, layer.digest, layer.size, layer.size))
        self._on_arrival(layer.digest)
