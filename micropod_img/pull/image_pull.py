"""One pull from one registry: read strictly, plan, lock, fetch, verify, publish; the index last."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from micropod_img import fsutil, progress
from micropod_img.digest import hex_of
from micropod_img.errors import NotFoundError
from micropod_img.models import Layer
from micropod_img.oci import Index
from micropod_img.platforms import normalize, select
from micropod_img.pull.fetch import Fetch, Transport, is_foreign
from micropod_img.pull.layer_fetch import LayerFetch
from micropod_img.pull.plan import Plan, plan_image, plan_index
from micropod_img.pull.publish import Listing, publish
from micropod_img.pull.pull import Pulled
from micropod_img.pull.resolve import Choice, Document, Resolver, no_such_platform
from micropod_img.store.blobs import is_hex

if TYPE_CHECKING:
    from micropod_img.arrivals import Arrivals
    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.oci import Descriptor
    from micropod_img.platforms import Platform
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.crane import Crane
    from micropod_img.pull.crane_errors import Request
    from micropod_img.pull.early import EarlyFetch
    from micropod_img.pull.pull import PullRequest
    from micropod_img.pull.retry import Retries
    from micropod_img.run import Child
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import FetchWait, Store

# Each is an open file; an index of more blobs is fetched under the lock of the index alone.
_MOST_LOCKS = 256


class ImagePull:
    """One pull from one endpoint: a staging place, the way to the registry, and at most one crane that fetches.

    Args:
        store: The store, prepared for writing.
        staging: A private place, locked by this process.
        crane: The way to the registry.
        request: The reference and that registry in words, for errors.
        wanted: What is to be pulled.
        retries: Repeats the fetch where that can help.
        sink: Is told of progress.
        cancellation: Ends the work.
    """

    def __init__(
        self,
        *,
        store: Store,
        staging: Staging,
        crane: Crane,
        request: Request,
        wanted: PullRequest,
        retries: Retries,
        sink: ProgressSink,
        cancellation: Cancellation,
    ) -> None:
        self._store = store
        self._staging = staging
        self._wanted = wanted
        self._request = request
        self._retries = retries
        self._sink = sink
        self._cancellation = cancellation
        self._resolver = Resolver(crane, store.blobs, wanted.reference, self._request, cancellation)
        self._transport = Transport(
            crane=crane,
            request=replace(self._request, stage="fetch"),
            staging=staging,
            blobs=store.blobs,
            sink=sink,
            cancellation=cancellation,
            limits=wanted.limits,
        )
        self._fetch = Fetch(self._transport)
        self._arrivals = wanted.arrivals
        self._configs: dict[Digest, bytes] = {}
        self._owner = f"pull {wanted.reference.familiar}"
        self._child: Child | None = None

    def run(self, content: bytes, early: EarlyFetch) -> Pulled:
        """Fetch what is missing and list the image in the index.

        Args:
            content: What the registry answered for the reference: a manifest or an index, not yet read.
            early: A crane that may be fetching the right image already.
        """
        self._resolver.know(early.documents)
        top = self._resolver.top(content)
        choice = choose(self._resolver, top, self._wanted)
        digest = top.digest if choice is None else choice.descriptor.digest
        if self._wanted.restores is not None and digest != self._wanted.restores.digest:
            raise another_image(self._request, self._wanted.restores.digest)
        with contextlib.ExitStack() as held:
            self._child = early.take(digest)
            held.callback(self._end_child)
            if not early.holds(digest):
                held.enter_context(self._store.image_lock(digest, self._owner, **self._waiting()))
            plan, platform = plan_fetch(self._resolver, top, choice, self._wanted, self._request)
            self._let_go_of_others(plan)
            with contextlib.ExitStack() as fetching:
                missing = self._lock_missing(plan, fetching)
                self._announce(plan, missing)
                if self._arrivals is not None:
                    self._expect(plan, self._arrivals)
                self._bring(plan, missing)
            self._read_configs(plan)
            path = () if choice is None else choice.path
            listing = Listing(self._wanted.reference, top, platform, self._configs, path, self._wanted.restores)
            entry = publish(
                self._store,
                self._staging,
                plan,
                listing,
                timeout=self._wanted.limits.seconds_left(),
                cancellation=self._cancellation,
            )
        downloaded = sum(blob.size for blob in missing)
        # Whoever removes the image by now frees nothing of it before this pull lets go of it.
        image = self._wanted.read_back(entry)
        return Pulled(image, downloaded, sum(blob.size for blob in plan.blobs) - downloaded)

    def _waiting(self) -> FetchWait:
        timeout = self._wanted.limits.seconds_left()
        # The early crane may be fetching what somebody else is fetching too.
        return {"on_busy": self._end_child, "timeout": timeout, "cancellation": self._cancellation}

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _let_go_of_others(self, plan: Plan) -> None:
        """Remove the links of what an early crane might have needed: rmi and gc pass over it as long as they are."""
        ours = {hex_of(blob.digest) for blob in plan.blobs} | {hex_of(one.digest) for one in plan.documents}
        with fsutil.disk_errors(self._staging.blobs), contextlib.suppress(FileNotFoundError):
            for path in self._staging.blobs.iterdir():
                if is_hex(path.name) and path.name not in ours:
                    path.unlink(missing_ok=True)

    def _lock_missing(self, plan: Plan, held: contextlib.ExitStack) -> tuple[Descriptor, ...]:
        """Be the one process that fetches each missing blob; what another one is fetching is waited for.

        Locks are taken in the order of digests, so that two pulls never wait for each other.
        """
        missing = self._lease(plan)
        for blob in sorted(missing, key=lambda blob: blob.digest) if len(missing) <= _MOST_LOCKS else ():
            with contextlib.ExitStack() as locked:
                locked.enter_context(self._store.blob_lock(blob.digest, self._owner, **self._waiting()))
                if not self._store.blobs.has(blob.digest, blob.size):
                    held.enter_context(locked.pop_all())  # what another one has brought need not be locked
        return self._lease(plan)

    def _lease(self, plan: Plan) -> tuple[Descriptor, ...]:
        """Link what is here into the staging place, which keeps it from gc and rmi; then return what is not here."""
        blobs, directory = self._store.blobs, self._staging.blobs
        with fsutil.disk_errors(directory):
            fsutil.make_directory(directory)
            here = [one for one in plan.layers if blobs.has(one.digest, one.size)]
            for one in here:
                link = directory / hex_of(one.digest)
                if link.exists() and link.stat().st_size != one.size:
                    link.unlink()  # of a damaged one, that somebody has replaced since
        blobs.link_into(directory, (one.digest for one in here))
        return plan.missing(blobs)

    def _announce(self, plan: Plan, missing: tuple[Descriptor, ...]) -> None:
        absent = {blob.digest for blob in missing}
        layers = tuple(progress.LayerPlan(one.digest, one.size, one.digest not in absent) for one in plan.layers)
        self._sink(progress.FetchStarted(self._request.ref, plan.root.digest, layers))

    def _expect(self, plan: Plan, arrivals: Arrivals) -> None:
        """Read the configuration before any layer comes, and tell which layers will."""
        self._read_configs(plan)
        (manifest,) = plan.images
        config = self._resolver.image_config(manifest, self._configs[manifest.config.digest])
        layers = zip(manifest.layers, config.rootfs.diff_ids, strict=True)
        arrivals.expect([Layer(one.digest, diff_id, one.media_type, one.size) for one, diff_id in layers])

    def _bring(self, plan: Plan, missing: tuple[Descriptor, ...]) -> None:
        """Fetch the missing layers; where trying again can help, that is done with what arrived whole kept."""
        self._fetch.check_space(missing)
        layers = tuple(blob for blob in missing if blob in plan.layers)
        if any(is_foreign(layer) for layer in layers):
            self._end_child()
            self._fetch.check_foreign(layers)
        self._retries.run(lambda attempt: self._bring_once(plan, layers, attempt), reached=lambda: True)

    def _bring_once(self, plan: Plan, layers: tuple[Descriptor, ...], attempt: int) -> None:
        absent = self._lease(plan)
        missing = tuple(layer for layer in layers if layer in absent)
        if self._arrivals is not None:
            self._bring_in_order(plan, self._arrivals, missing, attempt)
            return
        if not missing:
            self._end_child()
            return
        child = self._child or self._fetch.start(plan.root.digest, verbose=attempt > 1)
        self._child = None
        with child:
            self._fetch.finish(child, missing)

    def _bring_in_order(self, plan: Plan, arrivals: Arrivals, missing: tuple[Descriptor, ...], attempt: int) -> None:
        for layer in plan.layers:
            if layer not in missing:
                arrivals.arrived(layer.digest)
        LayerFetch(self._transport, arrivals).run(missing, verbose=attempt > 1)

    def _read_configs(self, plan: Plan) -> None:
        """Read and check every configuration; most of them crane has just written."""
        for descriptor in plan.configs:
            if descriptor.digest not in self._configs:
                self._configs[descriptor.digest] = self._resolver.config(descriptor, at=self._staging.blobs)
        for manifest in plan.images:
            self._resolver.image_config(manifest, self._configs[manifest.config.digest])


def another_image(request: Request, wanted: Digest) -> NotFoundError:
    """Return the error for an index that leads to another image than the one that was asked for by its digest."""
    return NotFoundError(
        f"{request.ref} does not lead to {wanted}", code="manifest-unknown", stage="resolve", endpoint=request.endpoint
    )


def choose(resolver: Resolver, top: Document, wanted: PullRequest) -> Choice | None:
    """Return the image that is meant, of an index of which not all is wanted; None where the answer itself is it.

    Raises:
        UnsupportedError: The index has none for the platform.
    """
    if not isinstance(top.parsed, Index) or wanted.platform is None:
        return None
    return resolver.choose(top, wanted.platform, strict=wanted.strict)


def plan_fetch(
    resolver: Resolver, top: Document, choice: Choice | None, wanted: PullRequest, request: Request
) -> tuple[Plan, Platform | None]:
    """Read the rest of the documents, and return what is to be fetched and what it runs on.

    Args:
        resolver: Asks the registry.
        top: What it answered for the reference.
        choice: As `choose` returned.
        wanted: What is to be pulled.
        request: The reference in words, for errors.

    Returns:
        The plan; and the platform, None for a whole index, and for an image that says nothing of it.

    Raises:
        UnsupportedError: It is an artifact, or not for the platform, or has something that cannot become files.
    """
    if isinstance(top.parsed, Index) and wanted.platform is None:
        return plan_index(top, resolver.descendants(top), request), None
    if choice is not None:
        return plan_image(resolver.child(choice.descriptor), request), choice.platform
    plan = plan_image(top, request)
    (manifest,) = plan.images
    own = resolver.image_config(manifest, resolver.config(manifest.config)).platform
    if wanted.platform is None:
        return plan, own if own.architecture else None
    if not own.architecture:
        return plan, normalize(wanted.platform)  # an image of data, for instance, which says nothing
    if select(wanted.platform, [own], strict=wanted.strict) is None:
        raise no_such_platform(request, wanted.platform, [own])
    return plan, own
