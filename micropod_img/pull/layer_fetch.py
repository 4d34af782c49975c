"""Fetch layers for someone who unpacks them meanwhile: the lower ones first, each by a crane of its own.

``crane pull`` asks for all layers at once, and on a line that is slower than it they all arrive at the end. Here a line
that is fast belongs to one layer; where it is slow, others join in (docs/adr/0005-unpacking-while-layers-arrive.md).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from micropod_img import fsutil
from micropod_img.digest import hex_of
from micropod_img.pull.watch import TICK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from micropod_img.arrivals import Arrivals
    from micropod_img.oci import Descriptor
    from micropod_img.pull.fetch import Transport
    from micropod_img.run import Child

MOST_CONNECTIONS: Final = 6
NEARLY_ALL: Final = 8 << 20
"""Bytes still to come; with fewer the line has room for the next layer, whose connection takes time to be made."""
FAST_ENOUGH: Final = 32 << 20
"""Bytes a second; a layer that comes faster is hardly unpacked faster, so no other need come beside it."""

_RATE_SECONDS: Final = 1.0
_PARTIAL: Final = ".partial"


def may_begin(connections: int, to_come: int, rate: float | None) -> bool:
    """Whether the next layer may begin while others are on their way.

    Args:
        connections: How many layers are on their way.
        to_come: Bytes that are still missing of these.
        rate: Bytes a second that come on all of them together; None where that is not known yet.
    """
    if connections in (0, MOST_CONNECTIONS):
        return connections == 0
    return to_come < NEARLY_ALL or (rate is not None and rate < FAST_ENOUGH)


class LayerFetch:
    """The fetch of an image's layers into one staging place.

    Args:
        transport: How it is fetched, and where to.
        arrivals: Is told what arrives.
    """

    def __init__(self, transport: Transport, arrivals: Arrivals) -> None:
        self._transport = transport
        self._arrivals = arrivals

    def run(self, missing: Sequence[Descriptor], *, verbose: bool) -> None:
        """Fetch layers and publish each as soon as it has arrived.

        Args:
            missing: The layers, bottom to top, each once.
            verbose: Whether crane tells how long a registry asks to wait.

        Raises:
            MicropodError: One failed, stalled, or took too long; the layers that arrived whole are published.
        """
        self._transport.remove_torn()
        waiting = deque(missing)
        running: list[_Transfer] = []
        watch, watchdog = self._transport.watch(missing, self._arrivals.arrived), self._transport.watchdog()
        rate = _Rate()
        with contextlib.ExitStack() as held:
            held.callback(watch.look)
            while waiting or running:
                to_come = sum(one.layer.size - watch.received(one.layer.digest) for one in running)
                if waiting and may_begin(len(running), to_come, rate.measured()):
                    running.append(held.enter_context(self._transfer(waiting.popleft(), verbose=verbose)))
                    rate.begin_again()
                    continue
                running[0].child.wait(TICK_SECONDS)
                for transfer in [one for one in running if one.child.wait(0)]:
                    self._accept(transfer)
                    running.remove(transfer)
                watchdog.check(grown=watch.look())
                rate.note(sum(watch.received(layer.digest) for layer in missing))

    @contextlib.contextmanager
    def _transfer(self, layer: Descriptor, *, verbose: bool) -> Iterator[_Transfer]:
        path = self._transport.staging.blobs / f"{hex_of(layer.digest)}{_PARTIAL}"
        with fsutil.disk_errors(path):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            child = self._transport.crane.start_blob(
                layer.digest, file, keep_open=(self._transport.staging.descriptor,), verbose=verbose
            )
        finally:
            os.close(file)
        transfer = _Transfer(layer, child, path)
        with child:
            self._arrivals.growing(layer.digest, path)
            try:
                yield transfer
            finally:
                if path.exists():
                    self._arrivals.lost(layer.digest)

    def _accept(self, transfer: _Transfer) -> None:
        """Give what a crane that has ended brought the name of a complete layer."""
        completed = transfer.child.completed()
        if completed.status != 0:
            raise self._transport.crane.failure(completed, self._transport.request)
        with fsutil.disk_errors(transfer.path):
            if transfer.path.stat().st_size != transfer.layer.size:
                raise self._transport.wrong_size(transfer.layer)
            transfer.path.rename(transfer.path.with_name(hex_of(transfer.layer.digest)))


@dataclass(frozen=True, slots=True)
class _Transfer:
    """A layer on its way, the crane that brings it, and the file that it writes."""

    layer: Descriptor
    child: Child
    path: Path


class _Rate:
    """How fast bytes have come lately."""

    def __init__(self) -> None:
        self._notes: deque[tuple[float, int]] = deque()

    def note(self, total: int) -> None:
        """Take down how many bytes have come in all."""
        self._notes.append((time.monotonic(), total))

    def begin_again(self) -> None:
        """Forget what was: a connection that is being made brings nothing yet."""
        self._notes.clear()

    def measured(self) -> float | None:
        """Return the bytes of a second; None before one has passed."""
        if not self._notes or self._notes[-1][0] - self._notes[0][0] < _RATE_SECONDS:
            return None
        while self._notes[-1][0] - self._notes[1][0] >= _RATE_SECONDS:
            self._notes.popleft()
        (first, before), (last, now) = self._notes[0], self._notes[-1]
        return (now - before) / (last - first)
