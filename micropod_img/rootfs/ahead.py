"""Unpack the layers of an image while the pull of it goes on: it tells what comes, and is called off when that fails.

What is made are snapshots, which are as good when the pull fails. What is not made by then is made afterwards, so this
changes how long it takes and nothing else.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from micropod_img import fsutil
from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import TypeAlias

    from micropod_img.digest import Digest
    from micropod_img.models import Layer
    from micropod_img.rootfs.layer_source import LayerSource
    from micropod_img.rootfs.snapshots import Call
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store

Make: TypeAlias = "Callable[[Sequence[Layer], LayerSource, Staging, Call], None]"


class UnpackingAhead:
    """Snapshots that are made while their layers arrive (`micropod_img.arrivals.Arrivals`); a context manager.

    They are kept until the block ends, and what is still being made then is given up.

    Args:
        store: The store.
        make: Makes snapshots of layers, with a staging place as the lease.
        call: For whom.
        pull: Is cancelled when a layer cannot be unpacked.
    """

    def __init__(self, store: Store, make: Make, call: Call, pull: Cancellation) -> None:
        self._store = store
        self._make = make
        self._call = call
        self._pull = pull
        self._work: _Work | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_up()

    def expect(self, layers: Sequence[Layer]) -> None:
        """Begin with an image; what was begun before is given up."""
        self._give_up()
        call = replace(self._call, cancellation=Cancellation())
        self._work = _Work(self._store, layers, self._make, call, self._pull)

    def growing(self, digest: Digest, path: Path) -> None:
        """Pass on what a layer is written to."""
        if self._work is not None:
            self._work.layers.growing(digest, path)

    def lost(self, digest: Digest) -> None:
        """Pass on that what was written is no good."""
        if self._work is not None:
            self._work.layers.lost(digest)

    def arrived(self, digest: Digest) -> None:
        """Pass on that a layer is here."""
        if self._work is not None:
            self._work.layers.arrived(digest)

    def raise_error(self) -> None:
        """Raise what kept a layer from being unpacked, if anything did: also one of an image that was given up."""
        self._give_up()
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all that was pulled is unpacked.

        Raises:
            MicropodError: It cannot be.
        """
        if self._work is not None:
            self._work.join()
            if self._work.error is not None:
                raise self._work.error

    def _give_up(self) -> None:
        if self._work is not None:
            work, self._work = self._work, None
            work.close()
            self._error = self._error or work.error


class _Work:
    """The snapshots of one image, made by a thread of their own."""

    def __init__(self, store: Store, layers: Sequence[Layer], make: Make, call: Call, pull: Cancellation) -> None:
        from micropod_img.rootfs.layer_source import ArrivingLayers  # noqa: PLC0415 - a warm start never comes here

        self.error: BaseException | None = None
        self._make = make
        self._call = call
        self._pull = pull
        with contextlib.ExitStack() as held:
            staging = held.enter_context(store.stage("ahead"))
            directory = staging.path / "layers"
            with fsutil.disk_errors(directory):
                directory.mkdir()
            self.layers = ArrivingLayers(store.blobs, directory, call.cancellation)
            self._thread = Work(lambda: self._run(layers, staging), name="unpacking-ahead")
            held.callback(self._end)
            self._thread.start()
            self._held = held.pop_all()

    def join(self) -> None:
        """Wait for the end; an interrupt calls it off."""
        try:
            self._thread.wait()
        except BaseException:
            self._call.cancellation.cancel()
            raise

    def close(self) -> None:
        """Give up what is not made yet, and let go of what is."""
        self._held.close()

    def _end(self) -> None:
        self._call.cancellation.cancel()
        self._thread.end()

    def _run(self, layers: Sequence[Layer], staging: Staging) -> None:
        try:
            self._make(layers, self.layers, staging, self._call)
        except CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that pulls
            self.error = error
            self._pull.cancel()
