"""Fetch what a plan misses: one crane into a private layout, its files watched, each layer published as it arrives."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import fsutil, media_types, run
from micropod_img.errors import IntegrityError, NotFoundError, UnsupportedError
from micropod_img.pull.watch import TICK_SECONDS, LayerWatch, Watchdog, fetch_stalled
from micropod_img.store.blobs import is_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.oci import Descriptor
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.crane import Crane, TimeLimits
    from micropod_img.pull.crane_errors import Request
    from micropod_img.store.blobs import BlobStore
    from micropod_img.store.staging import Staging


_FILES_OF_A_PULL = 12  # directories, documents and the index


@dataclass(frozen=True, slots=True)
class Transport:
    """How something is fetched into a staging place.

    Attributes:
        crane: The way to the registry.
        request: What is fetched, in words.
        staging: Where crane works.
        blobs: Where complete layers go.
        sink: Is told of progress.
        cancellation: Ends the fetch.
        limits: How long it may take.
    """

    crane: Crane
    request: Request
    staging: Staging
    blobs: BlobStore
    sink: ProgressSink
    cancellation: Cancellation
    limits: TimeLimits

    def watch(
        self, missing: Iterable[Descriptor], on_arrival: Callable[[Digest], None] = lambda _digest: None
    ) -> LayerWatch:
        """Return what reads from the files how far missing layers are."""
        return LayerWatch(
            ref=self.request.ref,
            directory=self.staging.blobs,
            blobs=self.blobs,
            layers=missing,
            sink=self.sink,
            on_arrival=on_arrival,
        )

    def watchdog(self) -> Watchdog:
        """Return what gives a fetch up that begins now."""
        return Watchdog(self.request, self.limits, self.cancellation, fetch_stalled)

    def remove_torn(self) -> None:
        """Remove what a crane that was ended left half-written: it takes space, and hides how the next one gets on."""
        with fsutil.disk_errors(self.staging.path), contextlib.suppress(FileNotFoundError):
            for path in self.staging.blobs.iterdir():
                if not is_hex(path.name):
                    path.unlink(missing_ok=True)

    def wrong_size(self, layer: Descriptor) -> IntegrityError:
        """Return the error for a layer that is not as large as its manifest says."""
        return IntegrityError(
            f"layer {layer.digest} of {self.request.ref} does not have the {layer.size} bytes that its manifest says",
            code="size-mismatch",
            hint="the image is broken; ask its publisher to push it again",
            stage="verify",
            endpoint=self.request.endpoint,
        )


class Fetch:
    """The fetch of one image, or one whole index, by one crane.

    Args:
        transport: How it is fetched, and where to.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._crane = transport.crane
        self._request = transport.request
        self._staging = transport.staging

    def start(self, digest: Digest, *, verbose: bool = False) -> run.Child:
        """Start crane; the blobs that are linked into the staging layout by now it does not fetch."""
        self._transport.remove_torn()
        return self._crane.start_pull(
            digest, self._staging.image_layout, keep_open=(self._staging.descriptor,), verbose=verbose
        )

    def check_space(self, missing: Iterable[Descriptor]) -> None:
        """Compare what is needed with what is free, before gigabytes are fetched for nothing.

        Raises:
            DiskError: There is not enough space.
        """
        sizes = [blob.size for blob in missing]
        fsutil.require_space(
            self._staging.path.parent, sum(sizes), files=len(sizes) + _FILES_OF_A_PULL, for_what=self._request.ref
        )

    def check_foreign(self, missing: Iterable[Descriptor]) -> None:
        """Check that the registry itself has the layers that it need not have; nobody else is asked for them.

        Raises:
            UnsupportedError: It does not.
        """
        for layer in missing:
            if not is_foreign(layer):
                continue
            try:
                # One byte too many is the proof that it is there, and costs no more.
                self._crane.blob(layer.digest, self._request, limit=1, cancellation=self._transport.cancellation)
            except run.OutputLimitError:
                continue
            except NotFoundError as error:
                raise UnsupportedError(
                    f"{self._request.ref} has the foreign layer {layer.digest}, which {self._request.endpoint} "
                    "does not have: its publisher may not distribute it",
                    code="foreign-layer",
                    hint=f"it is published at {', '.join(layer.urls) or 'no address'}",
                    stage="fetch",
                    endpoint=self._request.endpoint,
                    detail=error.detail,
                ) from error

    def finish(self, child: run.Child, missing: tuple[Descriptor, ...]) -> None:
        """Watch crane to its end and publish each layer as soon as it has arrived.

        Args:
            child: The running crane.
            missing: The layers that it is to bring.

        Raises:
            MicropodError: It failed, stalled, or took too long; the layers that arrived whole are published.
        """
        watch, watchdog = self._transport.watch(missing), self._transport.watchdog()
        try:
            while not child.wait(TICK_SECONDS):
                watchdog.check(grown=watch.look())
        finally:
            watch.look()
        completed = child.completed()
        if completed.status != 0:
            raise self._crane.failure(completed, self._request)
        for layer in missing:
            if not self._transport.blobs.has(layer.digest, layer.size):
                raise self._transport.wrong_size(layer)


def is_foreign(layer: Descriptor) -> bool:
    """Whether crane would look for a layer elsewhere if its registry did not have it, at whatever address is named."""
    return bool(layer.urls) or layer.media_type in media_types.FOREIGN_LAYERS
