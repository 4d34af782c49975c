"""Committed snapshots: the files that a chain of layers results in, one for each chain ID, shared by all images.

A layer is applied over its parents by umoci in a staging place, made durable, and renamed to ``snapshots/<chain>``:
what stands there is whole. Each chain ID has one maker at a time; others wait for it, and find its work.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.limits import Limits
from micropod_img.locks import Patience, locked, signed
from micropod_img.progress import Notice
from micropod_img.rootfs.chain import chain_ids
from micropod_img.rootfs.drivers.metadata import copy_metadata
from micropod_img.rootfs.leases import lease
from micropod_img.rootfs.syscalls import sync_filesystem
from micropod_img.rootfs.totals import ImageTotals, keep_totals
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
    from micropod_img.rootfs.gated import GatedLayers
    from micropod_img.rootfs.layer_source import LayerSource
    from micropod_img.rootfs.umoci import UnpackRoot
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
        from micropod_img.rootfs.umoci import UnpackRoot  # noqa: PLC0415 - pulls in pydantic, which a warm start spares

        with fsutil.disk_errors(staging.path):
            place = staging.path / "unpack"
            place.mkdir(mode=0o700)
            copies = staging.path / "uncompressed"
            copies.mkdir()
        root = UnpackRoot(place, umoci=umoci)
        making = _Making(self._store, self._driver, self, root, copies=copies, call=call)
        self._driver.isolated(lambda: making.run(layers, chain, source), call.cancellation)

    def _files(self, chain: ChainId) -> Path:
        return self._store.layout.snapshot(chain) / "fs"


class _Making:
    """Makes the missing snapshots of one image, one after the other; the gate looks at the next layer meanwhile."""

    def __init__(
        self, store: Store, driver: Driver, snapshots: Snapshots, root: UnpackRoot, *, copies: Path, call: Call
    ) -> None:
        self._store = store
        self._copies = copies
        self._driver = driver
        self._snapshots = snapshots
        self._root = root
        self._call = call

    def run(self, layers: Sequence[Layer], chain: Sequence[ChainId], source: LayerSource) -> None:
        # A warm start spares the decompressors, and the logging that the executor loads.
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        from micropod_img.rootfs.gated import GatedLayers  # noqa: PLC0415

        totals = ImageTotals()
        totals.add_snapshots(self._store.layout.snapshot(one) for one in chain if self._snapshots.has(one))
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="gate") as executor:
            gated = GatedLayers(layers, source, executor, self._call, totals=totals, copies=self._copies)
            try:
                for position, chain_id in enumerate(chain):
                    if not self._snapshots.has(chain_id):
                        self._make(position, chain, gated)
            except BaseException:
                self._call.cancellation.cancel()  # the gate need not finish with the next layer
                raise

    def _make(self, position: int, chain: Sequence[ChainId], gated: GatedLayers) -> None:
        call = self._call
        path = self._store.layout.snapshot_lock(chain[position])
        on_wait = observer(call.sink, call.ref)
        patience = Patience(f"snapshot {chain[position]}", on_wait, cancellation=call.cancellation)
        with fsutil.disk_errors(path), locked(path, patience, owner=signed(f"unpack {call.ref}")):
            if self._snapshots.has(chain[position]):
                return
            passed = gated.passed(position)
            self._look_ahead(position, chain, gated)
            with self._store.stage("snapshot") as staging:
                made = staging.path / "snapshot"
                with fsutil.disk_errors(made):
                    fsutil.require_space(
                        self._store.layout.root, passed.report.unpacked_size, for_what=f"a layer of {call.ref}"
                    )
                    made.mkdir(mode=0o700)
                    parents = self._snapshots.files(chain[:position])
                    with self._driver.applying(parents, made, self._root.rootfs):
                        self._root.unpack_layer(passed.blob, cancellation=call.cancellation)
                        if parents and not passed.report.has_root:
                            # umoci begins each time with a root directory as if there were none yet.
                            copy_metadata(parents[-1], self._root.rootfs)
                    # Before the parent is written, after which nothing changes: whiteouts have a link in there.
                    shutil.rmtree(made / "work", ignore_errors=True)
                    keep_totals(made, passed.report.entries, passed.report.unpacked_size)
                    # With it the whole chain of a mount is known, though nothing that lists its image is left.
                    (made / "parent").write_text(chain[position - 1] if position else "")
                    self._commit(made, self._store.layout.snapshot(chain[position]))

    def _look_ahead(self, position: int, chain: Sequence[ChainId], gated: GatedLayers) -> None:
        for later in range(position + 1, len(chain)):
            if not self._snapshots.has(chain[later]):
                gated.look_at(later)
                return

    def _commit(self, made: Path, place: Path) -> None:
        # umoci makes nothing durable, and the names and bytes of a layer are many: the filesystem as a whole is asked.
        sync_filesystem(made)
        made.rename(place)
        fsutil.fsync_directory(place.parent)
