"""The layers of one image on their way through the gate, in threads, while umoci works on what has passed of them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from micropod_img.errors import MicropodError
from micropod_img.rootfs.footprint import Footprint
from micropod_img.rootfs.gate import check_layer, count_again
from micropod_img.rootfs.layer_blobs import LayerBlob, PassingBlob
from micropod_img.rootfs.layer_source import LayerLostError
from micropod_img.rootfs.layer_stream import BLOCK, MAGIC_SIZE, Compression, compression_of
from micropod_img.rootfs.passage import NotPassedError, StoredPassage, UncompressedPassage
from micropod_img.rootfs.totals import ImageTotals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from types import TracebackType
    from typing import TypeAlias

    from micropod_img.digest import Digest
    from micropod_img.models import Layer
    from micropod_img.rootfs.gate import GateReport
    from micropod_img.rootfs.layer_source import LayerReading, LayerSource
    from micropod_img.rootfs.passage import Passage
    from micropod_img.rootfs.snapshots import Call

    _Key: TypeAlias = tuple[Digest, Digest]

_POLL_SECONDS = 0.01
_ISIZE = 4
_PATIENCE_SECONDS = 0.5
"""How long a layer that is needed now may take to arrive, if half of umoci's work is spared thereby."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A layer for umoci, and what the gate saw of it."""

    blob: LayerBlob
    report: GateReport
    footprint: Footprint | None = None


class GatedLayers:
    """Layers that are looked at once each, and counted as often as the image has them; a context manager.

    Args:
        layers: The layers, bottom to top.
        source: Where they are read from.
        call: What ends the gate, and what the image may take.
        at_once: How many layers are looked at at a time.
        totals: What the layers take that are unpacked already; nothing if None.
        passes: Whether `to_unpack` may return layers that are passing the gate.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        source: LayerSource,
        call: Call,
        *,
        at_once: int = 1,
        totals: ImageTotals | None = None,
        passes: bool = False,
    ) -> None:
        self._layers = layers
        self._source = source
        self._call = call
        self._totals = totals or ImageTotals()
        self._checks: dict[_Key, Future[Passed]] = {}
        self._passes = passes
        self._passages: dict[_Key, Passage] = {}
        self._needed: set[_Key] = set()
        self._lock = threading.Lock()
        self._unpacked: dict[_Key, set[int]] = {}
        self._executor = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="gate")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._call.cancellation.cancel()  # the gate need not finish with what nobody will unpack
        self.stop_passing()
        self._executor.shutdown()

    def look_at(self, position: int, *, apart: bool = False) -> Future[Passed]:
        """Let the gate begin with a layer, unless it has begun.

        Args:
            position: Of the layer in its image, from the bottom.
            apart: Whether it is to be unpacked apart from its parents, so that nothing more passes when it needs them.
        """
        layer = self._layers[position]
        key = _key(layer)
        if key not in self._checks:
            self._checks[key] = self._executor.submit(self._check, layer, apart=apart)
        return self._checks[key]

    def to_unpack(self, position: int) -> Passed | PassingBlob:
        """Wait until a layer has passed the gate, or the first bytes of it have, and return it to be unpacked.

        Args:
            position: Of the layer in its image, from the bottom.

        Raises:
            MicropodError: As `check_layer`.
        """
        layer = self._layers[position]
        check = self.look_at(position)
        while not check.done():
            passage = self._passages.get(_key(layer))
            if passage is not None and passage.has_begun:
                with contextlib.suppress(NotPassedError):
                    return PassingBlob(layer.digest, layer.diff_id, _compression_of(passage), passage)
            concurrent.futures.wait([check], timeout=_POLL_SECONDS)
        passage = self._passages.get(_key(layer))
        if passage is not None:
            passage.stop_reading()
        return self.passed(position)

    def passed(self, position: int) -> Passed:
        """Wait until a layer has passed the gate, and count it as unpacked.

        Raises:
            MicropodError: As `check_layer`.
        """
        layer = self._layers[position]
        passed = self.look_at(position).result()
        with self._lock:
            positions = self._unpacked.setdefault(_key(layer), set())
            is_again = bool(positions) and position not in positions
            positions.add(position)
        if is_again:
            count_again(passed.report, digest=layer.digest, limits=self._call.limits, totals=self._totals)
        return passed

    def need(self, position: int) -> None:
        """Let the gate wait no longer than a moment until all of a layer has arrived: there is nothing else to do."""
        self._needed.add(_key(self._layers[position]))

    def stop_passing(self) -> None:
        """From now on, return no layer to be unpacked before it has passed."""
        with self._lock:
            self._passes = False
            for passage in self._passages.values():
                passage.stop_reading()

    def _check(self, layer: Layer, *, apart: bool) -> Passed:
        while True:
            with contextlib.suppress(LayerLostError), self._source.reading(layer.digest) as reading:
                return self._passed(layer, reading, apart=apart)

    def _wait_for_all(self, layer: Layer, reading: LayerReading) -> None:
        """Wait for the end of a layer, which says how much it unpacks to, as long as that costs little."""
        impatient_at = time.monotonic() + _PATIENCE_SECONDS
        while reading.is_growing and self._passes:
            first_bytes = os.pread(reading.descriptor, MAGIC_SIZE, 0)
            if len(first_bytes) == MAGIC_SIZE and compression_of(first_bytes) is not Compression.GZIP:
                return
            if os.fstat(reading.descriptor).st_size == layer.size:
                return
            if _key(layer) in self._needed and time.monotonic() > impatient_at:
                return
            self._call.cancellation.sleep(_POLL_SECONDS)

    def _passed(self, layer: Layer, reading: LayerReading, *, apart: bool) -> Passed:
        self._wait_for_all(layer, reading)
        passage = self._begin_to_pass(layer, reading)
        footprint = None
        if apart:
            footprint = Footprint(on_need=passage.end if passage is not None else _do_nothing)
        try:
            report = check_layer(
                reading.stream,
                digest=layer.digest,
                media_type=layer.media_type,
                diff_id=layer.diff_id,
                limits=self._call.limits,
                totals=self._totals,
                cancellation=self._call.cancellation,
                footprint=footprint,
                passed=None if passage is None else passage.passed,
            )
            path = reading.verified()
            if passage is not None:
                passage.complete()
        except MicropodError:
            reading.verified()  # of bytes that are not the layer's it is no verdict
            raise
        finally:
            if passage is not None:
                passage.end()
        return Passed(LayerBlob(path, layer.digest, layer.diff_id), report, footprint)

    def _begin_to_pass(self, layer: Layer, reading: LayerReading) -> Passage | None:
        with self._lock:
            if not self._passes:
                return None
            unpacked_size = _unpacked_size(reading.descriptor, layer.size)
            if unpacked_size is None:
                passage: Passage = StoredPassage(os.dup(reading.descriptor), layer.size, self._call.cancellation)
            else:
                passage = UncompressedPassage(unpacked_size, self._call.cancellation)
            before, self._passages[_key(layer)] = self._passages.get(_key(layer)), passage
            if before is not None:
                before.stop_reading()
        return passage


def _do_nothing() -> None:
    pass


def _key(layer: Layer) -> _Key:
    return layer.digest, layer.diff_id


def _compression_of(passage: Passage) -> Compression:
    if passage.is_uncompressed:
        return Compression.NONE
    return compression_of(passage.read(0, min(MAGIC_SIZE, passage.size)))


def _unpacked_size(descriptor: int, size: int) -> int | None:
    """Return to how many bytes a layer unpacks, if that can be guessed and all of it is here; else None.

    The last bytes of a gzip member say it, modulo 4 GiB (RFC 1952, ISIZE). What the last one says is taken for all of
    them if it is what an archive can have. It may be wrong.
    """
    if os.fstat(descriptor).st_size != size or compression_of(os.pread(descriptor, MAGIC_SIZE, 0)) != Compression.GZIP:
        return None
    unpacked_size = int.from_bytes(os.pread(descriptor, _ISIZE, size - _ISIZE), "little")
    return unpacked_size if unpacked_size > size and unpacked_size % BLOCK == 0 else None
