"""What a pull would do, found out without doing it: the registry's documents are read, and nothing is kept of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.errors import MicropodError
from micropod_img.progress import LayerPlan
from micropod_img.pull.access import open_access
from micropod_img.pull.ask import ask
from micropod_img.pull.crane_errors import Request
from micropod_img.pull.image_pull import choose, plan_fetch
from micropod_img.pull.private_place import private_place
from micropod_img.pull.pull import NOT_THERE, OF_THE_ENDPOINT, retries_at, together
from micropod_img.pull.resolve import Resolver
from micropod_img.reports import PlannedEndpoint, PullPlan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.models import Image
    from micropod_img.platforms import Platform
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.endpoints import Endpoint
    from micropod_img.pull.plan import Plan
    from micropod_img.pull.pull import PullRequest
    from micropod_img.store.store import Store

HAS_IT = "has it"


def plan_pull(
    store: Store, program: Path, candidates: Sequence[PullRequest], *, sink: ProgressSink, cancellation: Cancellation
) -> PullPlan:
    """Ask the endpoints in their order, and say what would be fetched from the one that has the image.

    Args:
        store: The store; it need not exist, and is not made.
        program: Path of the verified crane.
        candidates: What would be pulled: the first of them that is there.
        sink: Is told of progress.
        cancellation: Ends the work.

    Raises:
        MicropodError: As of the pull itself.
    """
    places: list[PlannedEndpoint] = []
    for wanted in candidates:
        failures: list[MicropodError] = []
        for number, endpoint in enumerate(wanted.endpoints):
            try:
                with private_place() as directory:
                    plan, platform = _read(
                        endpoint,
                        wanted,
                        store=store,
                        program=program,
                        directory=directory,
                        sink=sink,
                        cancellation=cancellation,
                    )
            except OF_THE_ENDPOINT as error:
                failures.append(error)
                places.append(_place(endpoint, wanted, error.message))
                continue
            places.append(_place(endpoint, wanted, HAS_IT))
            places += [_place(other, wanted, None) for other in wanted.endpoints[number + 1 :]]
            return _planned(store, plan, platform, wanted, tuple(places))
        failure = together(failures)
        if wanted is candidates[-1] or not isinstance(failure, NOT_THERE):
            raise failure
    raise AssertionError("there is at least one candidate")


def plan_nothing(store: Store, image: Image, wanted: PullRequest) -> PullPlan:
    """Return the plan of a pull that is content with what is here."""
    layers = {one.digest: LayerPlan(one.digest, one.size, present=True) for one in image.layer_details}
    return PullPlan(
        ref=str(wanted.reference),
        digest=image.digest,
        platform=image.platform if wanted.platform is not None else None,
        endpoints=tuple(_place(endpoint, wanted, None) for endpoint in wanted.endpoints),
        fetch=False,
        layers=tuple(layers.values()),
        download_bytes=0,
        present_bytes=image.size,
        needed_bytes=0,
        free_bytes=_free_bytes(store),
    )


def _read(
    endpoint: Endpoint,
    wanted: PullRequest,
    *,
    store: Store,
    program: Path,
    directory: Path,
    sink: ProgressSink,
    cancellation: Cancellation,
) -> tuple[Plan, Platform | None]:
    request = Request(str(wanted.reference), endpoint.host, "resolve")
    crane, content = ask(
        endpoint,
        program,
        directory,
        wanted.settings,
        request=request,
        question=lambda crane, request: crane.manifest(None, request, cancellation=cancellation),
        retries=retries_at(endpoint, wanted, sink, cancellation),
    )
    resolver = Resolver(crane, store.blobs, wanted.reference, request, cancellation)
    top = resolver.top(content)
    return plan_fetch(resolver, top, choose(resolver, top, wanted), wanted, request)


def _place(endpoint: Endpoint, wanted: PullRequest, answer: str | None) -> PlannedEndpoint:
    source = None
    try:
        with private_place() as directory:
            left = wanted.limits.seconds_left()
            source = open_access(endpoint, wanted.settings, directory, timeout=left).credential_source
    except MicropodError as error:
        answer = answer or error.message  # a pull may never come to this place
    return PlannedEndpoint(
        host=endpoint.host,
        reference=endpoint.reference_text,
        is_mirror=endpoint.is_mirror,
        insecure=endpoint.insecure,
        credential_source=source,
        answer=answer,
    )


def _planned(
    store: Store, plan: Plan, platform: Platform | None, wanted: PullRequest, places: tuple[PlannedEndpoint, ...]
) -> PullPlan:
    missing = plan.missing(store.blobs)
    absent = {blob.digest for blob in missing}
    download = sum(blob.size for blob in missing)
    documents = sum(len(one.content) for one in plan.documents if not store.blobs.has(one.digest, len(one.content)))
    return PullPlan(
        ref=str(wanted.reference),
        digest=plan.root.digest,
        platform=platform,
        endpoints=places,
        fetch=True,
        layers=tuple(LayerPlan(one.digest, one.size, one.digest not in absent) for one in plan.layers),
        download_bytes=download,
        present_bytes=sum(blob.size for blob in plan.blobs) - download,
        needed_bytes=download + documents,
        free_bytes=_free_bytes(store),
    )


def _free_bytes(store: Store) -> int:
    """Return what this user may still write where the store is, or would be."""
    path = store.layout.root
    while not path.exists() and path != path.parent:
        path = path.parent
    return fsutil.free_space(path).size
