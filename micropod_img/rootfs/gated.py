"""The layers of one image on their way through the gate, in threads, while umoci works on those that passed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img.digest import hex_of
from micropod_img.errors import MicropodError
from micropod_img.rootfs.gate import check_layer, count_again
from micropod_img.rootfs.layer_copy import LayerCopy
from micropod_img.rootfs.layer_source import LayerLostError
from micropod_img.rootfs.totals import ImageTotals
from micropod_img.rootfs.umoci import LayerBlob

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.models import Layer
    from micropod_img.rootfs.gate import GateReport
    from micropod_img.rootfs.layer_source import LayerReading, LayerSource
    from micropod_img.rootfs.snapshots import Call


@dataclass(frozen=True, slots=True)
class Passed:
    """A layer for umoci, and what the gate saw of it."""

    blob: LayerBlob
    report: GateReport


class GatedLayers:
    """Layers that are looked at once each, and counted as often as the image has them.

    Args:
        layers: The layers, bottom to top.
        source: Where they are read from.
        executor: Where the gate runs.
        call: What ends the gate, and what the image may take.
        totals: What the layers take that are unpacked already; nothing if None.
        copies: A private directory for the uncompressed bytes of layers, from where umoci takes them; None for none.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        source: LayerSource,
        executor: Executor,
        call: Call,
        *,
        totals: ImageTotals | None = None,
        copies: Path | None = None,
    ) -> None:
        self._layers = layers
        self._source = source
        self._executor = executor
        self._call = call
        self._copies = copies
        self._totals = totals or ImageTotals()
        self._checks: dict[tuple[Digest, Digest], Future[Passed]] = {}
        self._unpacked: set[tuple[Digest, Digest]] = set()

    def look_at(self, position: int) -> Future[Passed]:
        """Let the gate begin with a layer, unless it has begun."""
        layer = self._layers[position]
        key = (layer.digest, layer.diff_id)
        if key not in self._checks:
            self._checks[key] = self._executor.submit(self._check, layer)
        return self._checks[key]

    def passed(self, position: int) -> Passed:
        """Wait until a layer has passed the gate, and return it to be unpacked.

        Raises:
            MicropodError: As `check_layer`.
        """
        layer = self._layers[position]
        passed = self.look_at(position).result()
        key = (layer.digest, layer.diff_id)
        if key in self._unpacked:
            count_again(passed.report, digest=layer.digest, limits=self._call.limits, totals=self._totals)
        self._unpacked.add(key)
        return passed

    def _check(self, layer: Layer) -> Passed:
        while True:
            with contextlib.suppress(LayerLostError), self._source.reading(layer.digest) as reading:
                return self._passed(layer, reading)

    def _passed(self, layer: Layer, reading: LayerReading) -> Passed:
        copy = self._copy(layer)
        try:
            report = check_layer(
                reading.stream,
                digest=layer.digest,
                media_type=layer.media_type,
                diff_id=layer.diff_id,
                limits=self._call.limits,
                totals=self._totals,
                cancellation=self._call.cancellation,
                copy=None if copy is None else copy.write,
            )
            path = reading.verified()
            uncompressed = None if copy is None else copy.finish()
        except MicropodError:
            reading.verified()  # of bytes that are not the layer's it is no verdict
            raise
        finally:
            if copy is not None:
                copy.give_up()
        return Passed(LayerBlob(path, layer.digest, layer.diff_id, uncompressed), report)

    def _copy(self, layer: Layer) -> LayerCopy | None:
        """Return where the uncompressed bytes go; of a layer that is unpacked several times they are not kept."""
        if self._copies is None or sum(other.digest == layer.digest for other in self._layers) > 1:
            return None
        path = self._copies / hex_of(layer.diff_id)
        path.unlink(missing_ok=True)  # of bytes that were lost
        return LayerCopy(path)
