"""Fetch what a plan misses: one crane into a private layout, its files watched, each layer published as it arrives."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from micropod_img import fsutil, media_types, progress, run
from micropod_img.digest import hex_of
from micropod_img.errors import DiskError, IntegrityError, NotFoundError, UnavailableError, UnsupportedError
from micropod_img.pull.crane import TimeLimits, timed_out
from micropod_img.store.blobs import is_hex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.oci import Descriptor
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.crane import Crane
    from micropod_img.pull.crane_errors import Request
    from micropod_img.store.blobs import BlobStore
    from micropod_img.store.staging import Staging

_TICK_SECONDS = 0.05


class Fetch:
    """The fetch of one image, or one whole index, into one staging place.

    Args:
        crane: The way to the registry.
        request: What is fetched, in words.
        staging: Where crane works.
        blobs: Where complete layers go.
        sink: Is told of progress.
        cancellation: Ends the fetch.
        limits: How long it may take.
    """

    def __init__(
        self,
        *,
        crane: Crane,
        request: Request,
        staging: Staging,
        blobs: BlobStore,
        sink: ProgressSink,
        cancellation: Cancellation,
        limits: TimeLimits,
    ) -> None:
        self._crane = crane
        self._request = request
        self._staging = staging
        self._blobs = blobs
        self._sink = sink
        self._cancellation = cancellation
        self._limits = limits

    def start(self, digest: Digest, *, verbose: bool = False) -> run.Child:
        """Start crane; the blobs that are linked into the staging layout by now it does not fetch."""
        self._remove_torn()
        return self._crane.start_pull(
            digest, self._staging.image_layout, keep_open=(self._staging.descriptor,), verbose=verbose
        )

    def check_space(self, missing: Iterable[Descriptor]) -> None:
        """Compare what is needed with what is free, before gigabytes are fetched for nothing.

        Raises:
            DiskError: There is not enough space.
        """
        needed = sum(blob.size for blob in missing)
        status = os.statvfs(self._staging.path)
        free = status.f_frsize * (status.f_bfree if os.geteuid() == 0 else status.f_bavail)
        if needed > free:
            raise DiskError(
                f"{self._request.ref} needs {needed} bytes more, and {self._staging.path.parent} has {free} free",
                code="disk-full",
                hint="free some space (micropod-img gc, rmi), or use another --root",
                stage="plan",
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
                self._crane.blob(layer.digest, self._request, limit=1, cancellation=self._cancellation)
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
        watch = _Watch(self._request.ref, self._staging, self._blobs, missing, self._sink)
        last_growth = time.monotonic()
        try:
            while not child.wait(_TICK_SECONDS):
                self._cancellation.check()
                now = time.monotonic()
                if watch.look():
                    last_growth = now
                if now - last_growth > self._limits.stall_timeout:
                    raise self._stalled()
                if self._limits.expired():
                    raise timed_out(self._request, self._limits)
        finally:
            watch.look()
        completed = child.completed()
        if completed.status != 0:
            raise self._crane.failure(completed, self._request)
        self._expect_all(missing)

    def _remove_torn(self) -> None:
        """Remove what a crane that was ended left half-written: it takes space, and hides how the next one gets on."""
        with fsutil.disk_errors(self._staging.path), contextlib.suppress(FileNotFoundError):
            for path in self._staging.blobs.iterdir():
                if not is_hex(path.name):
                    path.unlink(missing_ok=True)

    def _stalled(self) -> UnavailableError:
        return UnavailableError(
            f"{self._request.endpoint} sent nothing for {self._limits.stall_timeout:g} s ({self._request.ref})",
            code="stalled",
            hint="try again: layers that arrived whole are kept",
            stage="fetch",
            endpoint=self._request.endpoint,
            retryable=True,
        )

    def _expect_all(self, missing: tuple[Descriptor, ...]) -> None:
        for layer in missing:
            if not self._blobs.has(layer.digest, layer.size):
                raise IntegrityError(
                    f"layer {layer.digest} of {self._request.ref} does not have the {layer.size} bytes "
                    "that its manifest says",
                    code="size-mismatch",
                    hint="the image is broken; ask its publisher to push it again",
                    stage="verify",
                    endpoint=self._request.endpoint,
                )


def is_foreign(layer: Descriptor) -> bool:
    """Whether crane would look for a layer elsewhere if its registry did not have it, at whatever address is named."""
    return bool(layer.urls) or layer.media_type in media_types.FOREIGN_LAYERS


class _Watch:
    """Reads from the sizes of crane's files what has arrived: ``<hex><random>`` while it is written, then ``<hex>``."""

    def __init__(
        self,
        ref: str,
        staging: Staging,
        blobs: BlobStore,
        layers: tuple[Descriptor, ...],
        sink: ProgressSink,
    ) -> None:
        self._ref = ref
        self._directory = staging.blobs
        self._blobs = blobs
        self._pending = {hex_of(layer.digest): layer for layer in layers}
        self._received = dict.fromkeys(self._pending, -1)
        self._sink = sink

    def look(self) -> bool:
        """Look once, publish what is complete; return whether anything has grown since the last time.

        A file under a blob's own name that has another size is what the store had: crane will replace it.
        """
        sizes: dict[str, int] = {}
        complete: list[str] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
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
                    self._sink(progress.LayerProgress(self._ref, layer.digest, min(size, layer.size), layer.size))
        for name in complete:
            self._publish(name)
        return grown

    def _publish(self, name: str) -> None:
        layer = self._pending[name]
        path = self._directory / name
        self._blobs.publish(path, layer.digest)
        del self._pending[name]
        self._sink(progress.LayerProgress(self._ref, layer.digest, layer.size, layer.size))
