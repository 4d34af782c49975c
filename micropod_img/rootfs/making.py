"""How the missing snapshots of an image are made, each layer over its parents, or beside them where that is the same.

umoci works in a staging place, and if a layer is large, it still passes the gate meanwhile. Then the next one follows,
over that place, which at the same time is made durable and gets its name. Each chain ID has one maker at a time; others
wait for it, and find its work.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from micropod_img import fsutil
from micropod_img.cancellation import CancelledError
from micropod_img.errors import MicropodError
from micropod_img.locks import Patience, locked, signed
from micropod_img.rootfs.commits import Commits
from micropod_img.rootfs.drivers.metadata import copy_metadata
from micropod_img.rootfs.fuse_file import FuseUnavailableError
from micropod_img.rootfs.gated import GatedLayers, Passed
from micropod_img.rootfs.joining import join
from micropod_img.rootfs.mounts import unmount_private
from micropod_img.rootfs.passage import NotPassedError
from micropod_img.rootfs.totals import ImageTotals, keep_totals
from micropod_img.store.waits import observer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from micropod_img.models import Layer
    from micropod_img.rootfs.chain import ChainId
    from micropod_img.rootfs.drivers.driver import Driver
    from micropod_img.rootfs.layer_blobs import PassingBlob
    from micropod_img.rootfs.layer_source import LayerSource
    from micropod_img.rootfs.snapshots import Call, Snapshots
    from micropod_img.rootfs.umoci import UnpackRoot, UnpackRoots
    from micropod_img.store.store import Store


_AT_ONCE: Final = max(2, min(4, len(os.sched_getaffinity(0))))
"""Layers in work. umoci has one busy thread, the gate another; with more of them the disk is what is slow."""

_SMALLEST_APART: Final = 4 << 20
"""Bytes as stored; of smaller layers more take something away, and less is gained."""


def make_missing(
    snapshots: Snapshots,
    chain: Sequence[ChainId],
    layers: Sequence[Layer],
    source: LayerSource,
    *,
    store: Store,
    driver: Driver,
    roots: UnpackRoots,
    call: Call,
) -> None:
    """Make the snapshots of an image that are missing, where `Driver.isolated` lets work be done.

    Args:
        snapshots: Those that are here.
        chain: The chain IDs of the image, bottom to top.
        layers: Its layers, bottom to top.
        source: Where these are read from.
        store: The store.
        driver: Shows the parents of a layer where it is applied.
        roots: Where umoci works.
        call: For whom.

    Raises:
        MicropodError: As `Snapshots.ensure`.
    """
    missing = [position for position, one in enumerate(chain) if not snapshots.has(one)]
    totals = ImageTotals()
    totals.add_snapshots(store.layout.snapshot(one) for one in chain if snapshots.has(one))
    with (
        Commits(store.layout) as commits,
        contextlib.ExitStack() as held,
        ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="apart") as executor,
        # Only a driver that mounts works in a private mount namespace, where umoci can be served what is passing.
        GatedLayers(layers, source, call, at_once=_AT_ONCE, totals=totals, passes=driver.mounts) as gated,
    ):
        making = _Making(snapshots, chain, layers, gated, commits, store, driver, roots, call, executor, held)
        making.make(missing)


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """A layer in a staging place of its own."""

    made: Path
    passed: Passed
    held: contextlib.ExitStack


@dataclass(frozen=True, slots=True)
class _Begun:
    """A snapshot whose chain ID is locked, and its layer as it is unpacked apart, if it is."""

    position: int
    held: contextlib.ExitStack
    apart: Future[_Unpacked | None] | None


@dataclass(frozen=True, slots=True)
class _Making:
    """Makes one snapshot after the other, and prepares the next ones meanwhile."""

    snapshots: Snapshots
    chain: Sequence[ChainId]
    layers: Sequence[Layer]
    gated: GatedLayers
    commits: Commits
    store: Store
    driver: Driver
    roots: UnpackRoots
    call: Call
    executor: Executor
    held: contextlib.ExitStack

    def make(self, missing: Iterable[int]) -> None:
        """Make snapshots, given by their positions from the bottom."""
        waiting, begun = deque(missing), deque[_Begun]()
        while waiting or begun:
            self.commits.raise_error()
            while waiting and len(begun) < _AT_ONCE:
                one = self._begin(waiting.popleft())
                if one is not None:
                    begun.append(one)
            if begun:
                self._finish(begun.popleft())

    def _begin(self, position: int) -> _Begun | None:
        """Lock a chain ID, and begin with its layer, unless somebody else has made the snapshot."""
        call, chain_id = self.call, self.chain[position]
        path = self.store.layout.snapshot_lock(chain_id)
        patience = Patience(f"snapshot {chain_id}", observer(call.sink, call.ref), cancellation=call.cancellation)
        with contextlib.ExitStack() as held, fsutil.disk_errors(path):
            held.enter_context(locked(path, patience, owner=signed(f"unpack {call.ref}")))
            if self.snapshots.has(chain_id):
                return None
            is_apart = self._may_be_unpacked_apart(position)
            self.gated.look_at(position, apart=is_apart)
            apart = self.executor.submit(self._unpack_apart, position) if is_apart else None
            if apart is not None:
                self.held.callback(_let_go, apart)
            begun = _Begun(position, held.pop_all(), apart)
            self.held.callback(begun.held.close)
            return begun

    def _may_be_unpacked_apart(self, position: int) -> bool:
        layer = self.layers[position]
        occurrences = sum(other.digest == layer.digest for other in self.layers)
        return self.driver.joins and layer.size >= _SMALLEST_APART and occurrences == 1

    def _finish(self, begun: _Begun) -> None:
        """Make what was begun a snapshot; those below it have been made."""
        self.gated.need(begun.position)
        unpacked = self._joined(begun) or self._unpacked_over(begun.position)
        with begun.held as held:
            held.push(unpacked.held.pop_all())
            made, report = unpacked.made, unpacked.passed.report
            with fsutil.disk_errors(made):
                # Before it has children, after which nothing changes: whiteouts have a link in there.
                shutil.rmtree(made / "work", ignore_errors=True)
                keep_totals(made, report.entries, report.unpacked_size)
                # With it the whole chain of a mount is known, though nothing that lists its image is left.
                (made / "parent").write_text(self.chain[begun.position - 1] if begun.position else "")
            self.commits.begin(self.chain[begun.position], made, held.pop_all())

    def _joined(self, begun: _Begun) -> _Unpacked | None:
        """Return a layer that was unpacked apart and can be a snapshot, if there is one."""
        unpacked = None if begun.apart is None else begun.apart.result()
        if unpacked is None:
            return None
        if begun.position:
            with fsutil.disk_errors(unpacked.made), self._below(begun.position, unpacked.made) as below:
                can_be = join(unpacked.made / "fs", below, unpacked.passed)
            if not can_be:
                unpacked.held.close()
                return None
        return unpacked

    @contextlib.contextmanager
    def _below(self, position: int, beside: Path) -> Iterator[Path]:
        """Show the files of the snapshot below one."""
        place = beside.with_name("below")
        place.mkdir()
        with self.commits.files(self.chain[:position]) as parents:
            self.driver.mount_image(parents, place)
        try:
            yield place
        finally:
            unmount_private(place)

    def _unpack_apart(self, position: int) -> _Unpacked | None:
        """Unpack a layer in an empty directory; if that fails, it will be seen over its parents whether it matters."""
        try:
            return self._unpacked(position, 0)
        except CancelledError:
            raise
        except MicropodError:
            return None

    def _unpacked_over(self, position: int) -> _Unpacked:
        """Unpack a layer over its parents."""
        while True:
            unpacked = self._unpacked(position, position)
            if unpacked is not None:
                return unpacked

    def _unpacked(self, position: int, below: int) -> _Unpacked | None:
        """Unpack a layer over the first ones below it; None if not all of it passes the gate on this way."""
        layer = self.gated.to_unpack(position)
        with contextlib.ExitStack() as attempt:
            made = attempt.enter_context(self.store.stage("snapshot")).path / "snapshot"
            with fsutil.disk_errors(made):
                self._watch_space(layer)
                made.mkdir(mode=0o700)
                try:
                    with self.roots.root() as root:
                        passed = self._apply(position, self.chain[:below], made, layer, root)
                except NotPassedError:  # the gate says why, its bytes come once more, or it needs its parents
                    return None
                except FuseUnavailableError:
                    self.gated.stop_passing()
                    return None
            return _Unpacked(made, passed, attempt.pop_all())

    def _apply(
        self, position: int, below: Sequence[ChainId], made: Path, layer: Passed | PassingBlob, root: UnpackRoot
    ) -> Passed:
        with contextlib.ExitStack() as applying:
            with self.commits.files(below) as parents:
                applying.enter_context(self.driver.applying(parents, made, root.rootfs))
            blob = layer.blob if isinstance(layer, Passed) else layer
            root.unpack_layer(blob, cancellation=self.call.cancellation)
            passed = self.gated.passed(position)
            if below and not passed.report.has_root:
                # umoci begins each time with a root directory as if there were none yet.
                with self.commits.files(below) as parents:
                    copy_metadata(parents[-1], root.rootfs)
        return passed

    def _watch_space(self, layer: Passed | PassingBlob) -> None:
        """Refuse a layer for which there is no room, or let the gate refuse it as soon as it has seen too much."""
        place, subject = self.store.layout.root, f"a layer of {self.call.ref}"
        if isinstance(layer, Passed):
            fsutil.require_space(place, layer.report.unpacked_size, for_what=subject)
        else:
            free = fsutil.free_space(place)
            layer.passage.check_size(lambda size: fsutil.require_space(place, size, free=free, for_what=subject))


def _let_go(apart: Future[_Unpacked | None]) -> None:
    """Let go of a layer that was not needed."""
    if not apart.cancelled() and apart.exception() is None:
        unpacked = apart.result()
        if unpacked is not None:
            unpacked.held.close()
