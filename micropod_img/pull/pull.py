"""Pull one reference: look, lock, look again; resolve, plan, fetch, verify, publish; the index last."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from micropod_img import fsutil, progress
from micropod_img.errors import (
    AuthError,
    IntegrityError,
    MicropodError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
)
from micropod_img.oci import Index
from micropod_img.platforms import normalize, select
from micropod_img.pull.access import open_access
from micropod_img.pull.crane import Crane
from micropod_img.pull.crane_errors import Request
from micropod_img.pull.fetch import Fetch, is_foreign
from micropod_img.pull.plan import Plan, plan_image, plan_index
from micropod_img.pull.publish import Listing, publish
from micropod_img.pull.resolve import Choice, Document, Resolver, no_such_platform

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.oci import Descriptor
    from micropod_img.platforms import Platform
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.access import AccessSettings
    from micropod_img.pull.crane import TimeLimits
    from micropod_img.pull.endpoints import Endpoint
    from micropod_img.reference import Reference
    from micropod_img.run import Child
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store

_MOST_PRELINKED = 4096
_ATTEMPTS = 3
# What one place to ask may answer, and another may not; a full disk or a hostile image is the same everywhere.
_OF_THE_ENDPOINT = (NotFoundError, AuthError, UnavailableError, RateLimitedError, IntegrityError)
_FIRST_DELAY = 0.5


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What is to be pulled, and how.

    Attributes:
        reference: The image.
        platform: The platform to choose from an index; None for all of them.
        strict: Whether only exactly this platform will do, since the user named it.
        endpoints: Where to ask, one after the other until one has it: mirrors first, the registry itself last.
        settings: What the user said of reaching registries.
        limits: How long it may take.
    """

    reference: Reference
    platform: Platform | None
    strict: bool
    endpoints: tuple[Endpoint, ...]
    settings: AccessSettings
    limits: TimeLimits


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did: bytes that came over the network, and bytes that were here."""

    digest: Digest
    downloaded_bytes: int
    reused_bytes: int


class ImagePull:
    """One pull from one endpoint: a staging place, the way to the registry, and at most one crane that fetches.

    Args:
        store: The store, prepared for writing.
        staging: A private place, locked by this process.
        crane: The way to the registry.
        endpoint: Which registry that is.
        wanted: What is to be pulled.
        sink: Is told of progress.
        cancellation: Ends the work.
    """

    def __init__(
        self,
        *,
        store: Store,
        staging: Staging,
        crane: Crane,
        endpoint: Endpoint,
        wanted: PullRequest,
        sink: ProgressSink,
        cancellation: Cancellation,
    ) -> None:
        self._store = store
        self._staging = staging
        self._wanted = wanted
        self._request = Request(str(wanted.reference), endpoint.host, "resolve")
        self._sink = sink
        self._cancellation = cancellation
        self._resolver = Resolver(crane, store.blobs, wanted.reference, self._request, cancellation)
        self._fetch = Fetch(
            crane=crane,
            request=replace(self._request, stage="fetch"),
            staging=staging,
            blobs=store.blobs,
            sink=sink,
            cancellation=cancellation,
            limits=wanted.limits,
        )
        self._owner = f"pull {wanted.reference.familiar}"
        self._child: Child | None = None

    def run(self) -> Pulled:
        """Fetch what is missing and list the image in the index."""
        self._staging.probe_filesystem()
        top = self._resolver.top()
        if isinstance(top.parsed, Index) and self._wanted.platform is not None:
            choice = self._resolver.choose(top, self._wanted.platform, strict=self._wanted.strict)
            digest, platform = choice.descriptor.digest, choice.platform
        else:
            choice, digest, platform = None, top.digest, None
        with (
            self._store.blob_lock(digest, self._owner, on_wait=self._wait, cancellation=self._cancellation),
            contextlib.ExitStack() as held,
        ):
            held.callback(self._end_child)
            if choice is not None and self._may_start_early(choice):
                self._start(digest)
            document = top if choice is None else self._resolver.child(choice.descriptor)
            plan = self._plan(document)
            if platform is None and self._wanted.platform is not None:
                platform = self._own_platform(plan, self._wanted.platform)
            missing = self._lock_missing(plan, held)
            self._announce(plan, missing)
            self._bring(plan, missing)
            configs = self._configs(plan)
            publish(self._store, self._staging, plan, Listing(self._wanted.reference, top, platform, configs))
        downloaded = sum(blob.size for blob in missing)
        return Pulled(document.digest, downloaded, sum(blob.size for blob in plan.blobs) - downloaded)

    def _may_start_early(self, choice: Choice) -> bool:
        # Layers that a registry need not have are Windows' own, and are checked for before crane may look elsewhere.
        here = self._store.blobs.has(choice.descriptor.digest, choice.descriptor.size)
        return not here and choice.platform.os != "windows"

    def _start(self, digest: Digest) -> None:
        """Start crane before the manifest is known here: it asks for it at the same time.

        So every blob that the store has is linked into its layout, whichever it will turn out to need.
        """
        here = self._store.blobs.sizes()
        if len(here) > _MOST_PRELINKED:
            return
        fsutil.make_directory(self._staging.blobs)
        self._store.blobs.link_into(self._staging.blobs, here)
        self._child = self._fetch.start(digest)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _plan(self, document: Document) -> Plan:
        if isinstance(document.parsed, Index):
            return plan_index(document, self._resolver.descendants(document), self._request)
        return plan_image(document, self._request)

    def _own_platform(self, plan: Plan, wanted: Platform) -> Platform:
        """Return the platform of an image that no index describes, as its configuration says."""
        (manifest,) = plan.images
        own = self._resolver.image_config(manifest, self._resolver.config(manifest.config)).platform
        if not own.architecture:
            return normalize(wanted)  # an image of data, for instance, which says nothing
        if select(wanted, [own], strict=self._wanted.strict) is None:
            raise no_such_platform(self._request, wanted, [own])
        return own

    def _lock_missing(self, plan: Plan, held: contextlib.ExitStack) -> tuple[Descriptor, ...]:
        """Be the one process that fetches each missing blob; what another one is fetching is waited for.

        Locks are taken in the order of digests, so that two pulls never wait for each other.
        """
        for blob in sorted(plan.missing(self._store.blobs), key=lambda blob: blob.digest):
            lock = self._store.blob_lock(blob.digest, self._owner, on_wait=self._wait, cancellation=self._cancellation)
            held.enter_context(lock)
        return plan.missing(self._store.blobs)

    def _wait(self, holder: str) -> None:
        self._end_child()  # it may be fetching what somebody else is fetching too
        self._sink(progress.Waiting(self._request.ref, str(self._request.ref), holder))

    def _announce(self, plan: Plan, missing: tuple[Descriptor, ...]) -> None:
        absent = {blob.digest for blob in missing}
        layers = tuple(progress.LayerPlan(one.digest, one.size, one.digest not in absent) for one in plan.layers)
        self._sink(progress.FetchStarted(self._request.ref, plan.root.digest, layers))

    def _bring(self, plan: Plan, missing: tuple[Descriptor, ...]) -> None:
        """Fetch the missing layers; where trying again can help, that is done with what arrived whole kept."""
        self._fetch.check_space(missing)
        layers = tuple(blob for blob in missing if blob in plan.layers)
        if any(is_foreign(layer) for layer in layers):
            self._end_child()
            self._fetch.check_foreign(layers)
        delay = _FIRST_DELAY
        for attempt in range(2, _ATTEMPTS + 1):
            try:
                self._bring_once(plan, layers)
            except MicropodError as error:
                if not error.retryable or self._wanted.limits.expired():
                    raise
                self._sink(progress.Retrying(self._request.ref, attempt, delay, error.message))
                self._cancellation.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
                delay *= 4
            else:
                return
        self._bring_once(plan, layers)

    def _bring_once(self, plan: Plan, layers: tuple[Descriptor, ...]) -> None:
        missing = tuple(layer for layer in layers if not self._store.blobs.has(layer.digest, layer.size))
        if not missing:
            self._end_child()
            return
        fsutil.make_directory(self._staging.blobs)
        self._store.blobs.link_into(
            self._staging.blobs, (one.digest for one in plan.layers if self._store.blobs.has(one.digest, one.size))
        )
        child = self._child or self._fetch.start(plan.root.digest)
        self._child = None
        with child:
            self._fetch.finish(child, missing)

    def _configs(self, plan: Plan) -> dict[Digest, bytes]:
        """Return the bytes of every configuration, checked; most of them crane has just written."""
        configs: dict[Digest, bytes] = {}
        for descriptor in plan.configs:
            configs[descriptor.digest] = self._resolver.config(descriptor, at=self._staging.blobs)
        for manifest in plan.images:
            self._resolver.image_config(manifest, configs[manifest.config.digest])
        return configs


def pull(store: Store, program: Path, wanted: PullRequest, *, sink: ProgressSink, cancellation: Cancellation) -> Pulled:
    """Fetch an image and list it in the index.

    Args:
        store: The store, prepared for writing.
        program: Path of the verified crane.
        wanted: What is to be pulled.
        sink: Is told of progress.
        cancellation: Ends the work.

    Raises:
        MicropodError: As the table of `micropod_img.pull.crane_errors` says; or an integrity, disk or safety error.
    """
    failures: list[MicropodError] = []
    for endpoint in wanted.endpoints:
        sink(progress.Resolving(str(wanted.reference), endpoint.host))
        try:
            with store.stage("pull") as staging:
                return ImagePull(
                    store=store,
                    staging=staging,
                    crane=_crane(program, endpoint, staging, wanted, cancellation),
                    endpoint=endpoint,
                    wanted=wanted,
                    sink=sink,
                    cancellation=cancellation,
                ).run()
        except _OF_THE_ENDPOINT as error:
            failures.append(error)
            if endpoint is not wanted.endpoints[-1]:
                sink(progress.Notice(str(wanted.reference), f"{error.message}; the next place is asked"))
    raise _together(failures)


def current_digest(store: Store, program: Path, wanted: PullRequest, cancellation: Cancellation) -> Digest:
    """Ask for the digest that a reference names now, and for nothing else; the first endpoint that answers decides.

    Raises:
        MicropodError: As the table of `micropod_img.pull.crane_errors` says.
    """
    failures: list[MicropodError] = []
    for endpoint in wanted.endpoints:
        request = Request(str(wanted.reference), endpoint.host, "resolve")
        try:
            with store.stage("resolve") as staging:
                crane = _crane(program, endpoint, staging, wanted, cancellation)
                return crane.digest(request, cancellation=cancellation)
        except _OF_THE_ENDPOINT as error:
            failures.append(error)
    raise _together(failures)


def _crane(
    program: Path, endpoint: Endpoint, staging: Staging, wanted: PullRequest, cancellation: Cancellation
) -> Crane:
    access = open_access(endpoint, wanted.settings, staging.path / "home", cancellation=cancellation)
    return Crane(program, access, wanted.limits)


def _together(failures: Sequence[MicropodError]) -> MicropodError:
    """Return the error of the place that was asked last, the registry itself, with what each of them answered."""
    last = failures[-1]
    if len(failures) > 1:
        answers = [f"{error.endpoint or 'a mirror'}: {error.message}" for error in failures]
        last.detail = "\n".join([*answers, "", *(error.detail or "" for error in failures)])
        last.message += f" (asked before: {', '.join(error.endpoint or 'a mirror' for error in failures[:-1])})"
    return last
