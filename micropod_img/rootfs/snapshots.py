"""Committed snapshots: the files that a chain of layers results in, one for each chain ID, shared by all images.

What stands in ``snapshots/<chain>`` is whole: it was made elsewhere (`micropod_img.rootfs.making`), made durable, and
renamed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.limits import Limits
from micropod_img.progress import Notice
from micropod_img.rootfs.chain import chain_ids
from micropod_img.rootfs.leases import lease
from micropod_img.store.holding import hold_layers
from micropod_img.store.waits import observer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.models import Image, Layer
    from micropod_img.progress import ProgressSink
    from micropod_img.rootfs.chain import ChainId
    from micropod_img.rootfs.drivers.driver import Driver
    from micropod_img.rootfs.layer_source import LayerSource
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store


@dataclass(frozen=True, slots=True)
class Call:
    """For whom layers are unpacked: the reference, who is told of progress, what ends the work, what it may take."""

    ref: str
    sink: ProgressSink
    cancellation: Cancellation
    limits: Limits = field(default_factory=Limits)
    _told: set[str] = field(default_factory=set, repr=False, compare=False)

    def tell(self, message: str) -> None:
        """Tell the user of something, once in a call: a layer that arrives and the pod may both come across it."""
        if message not in self._told:
            self._told.add(message)
            self.sink(Notice(self.ref, message))


class Snapshots:
    """The snapshots of one store.

    Args:
        store: The store, prepared for writing.
        driver: What turns them into file trees.
        umoci: Finds the program, when a layer must be unpacked.
    """

    def __init__(self, store: Store, driver: Driver, umoci: Callable[[], Path]) -> None:
        self._store = store
        self._driver = driver
        self._umoci = umoci

    def files(self, chain: Sequence[ChainId]) -> tuple[Path, ...]:
        """Return the directories of the snapshots' files, bottom to top."""
        return tuple(self._files(one) for one in chain)

    def has(self, chain: ChainId) -> bool:
        """Whether a snapshot is here; what is here is whole."""
        return self._files(chain).is_dir()

    def ensure(self, image: Image, staging: Staging, call: Call) -> tuple[ChainId, ...]:
        """Make the snapshots of an image that are missing, and keep all of them while a staging place exists.

        An image whose snapshots are all here takes nothing more, and is not measured again, whatever the limits say.

        Args:
            image: The image, whose layers are here.
            staging: The lease.
            call: For whom.

        Returns:
            Its chain IDs, bottom to top.

        Raises:
            UnsafeError: A layer is refused by the gate, or the image goes over a limit.
            IntegrityError: A layer is not what its digest or diff ID says.
            DiskError: There is no room, or mounting is not allowed.
            ToolError: umoci is missing, or failed.
        """
        chain = chain_ids(layer.diff_id for layer in image.layer_details)
        lease(self._store.layout, staging, chain, observer(call.sink, call.ref))
        if all(map(self.has, chain)):
            return chain
        layers = staging.path / "layers"
        hold_layers(self._store, image, layers)
        from micropod_img.rootfs.layer_source import HeldLayers  # noqa: PLC0415 - a warm start does without it

        self._make(image.layer_details, chain, HeldLayers(layers), staging, call)
        return chain

    def make_arriving(self, layers: Sequence[Layer], source: LayerSource, staging: Staging, call: Call) -> None:
        """Make the missing snapshots of an image whose layers arrive, each as soon as its layer is here; see `ensure`.

        Args:
            layers: Its layers, bottom to top.
            source: Where they are read from.
            staging: The lease.
            call: For whom.
        """
        chain = chain_ids(layer.diff_id for layer in layers)
        lease(self._store.layout, staging, chain, observer(call.sink, call.ref))
        if not all(map(self.has, chain)):
            self._make(layers, chain, source, staging, call)

    def _make(
        self, layers: Sequence[Layer], chain: Sequence[ChainId], source: LayerSource, staging: Staging, call: Call
    ) -> None:
        umoci = self._umoci()
        # A warm start spares the decompressors, pydantic, and the logging that executors load.
        from micropod_img.rootfs.making import make_missing  # noqa: PLC0415
        from micropod_img.rootfs.umoci import UnpackRoots  # noqa: PLC0415

        with fsutil.disk_errors(staging.path):
            place = staging.path / "unpack"
            place.mkdir(mode=0o700)
        roots = UnpackRoots(place, umoci=umoci)

        def make() -> None:
            make_missing(self, chain, layers, source, store=self._store, driver=self._driver, roots=roots, call=call)

        self._driver.isolated(make, call.cancellation)

    def _files(self, chain: ChainId) -> Path:
        return self._store.layout.snapshot(chain) / "fs"
