"""Pull one reference: ask one place after the other until one has it.

This module and what it imports is light; what reads a registry's documents strictly is imported while crane works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import progress
from micropod_img.errors import (
    AuthError,
    IntegrityError,
    MicropodError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
)
from micropod_img.pull.ask import ask
from micropod_img.pull.crane_errors import Request
from micropod_img.pull.early import EarlyFetch
from micropod_img.pull.retry import Retries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from micropod_img.arrivals import Arrivals
    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.models import Image
    from micropod_img.platforms import Platform
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.access import AccessSettings
    from micropod_img.pull.crane import TimeLimits
    from micropod_img.pull.endpoints import Endpoint
    from micropod_img.reference import Reference
    from micropod_img.store.index import Entry
    from micropod_img.store.store import Store

NOT_THERE = (NotFoundError, AuthError)
"""What lets the search for a short name go on: a registry that is down must not let another one say what it means."""

# What one place to ask may answer, and another may not; a full disk or a hostile image is the same everywhere.
OF_THE_ENDPOINT = (NotFoundError, AuthError, UnavailableError, RateLimitedError, IntegrityError)


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
        read_back: Reads what was listed, while nothing can take it away yet.
        restores: An entry that lists the image already and stays as it is: only its blobs are fetched again.
        arrivals: Is told of each layer that is here; then the lower layers come first.
    """

    reference: Reference
    platform: Platform | None
    strict: bool
    endpoints: tuple[Endpoint, ...]
    settings: AccessSettings
    limits: TimeLimits
    read_back: Callable[[Entry], Image]
    restores: Entry | None = None
    arrivals: Arrivals | None = None


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did: the image, bytes that came over the network, and bytes that were here."""

    image: Image
    downloaded_bytes: int
    reused_bytes: int


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
            return _pull_from(
                endpoint, store=store, program=program, wanted=wanted, sink=sink, cancellation=cancellation
            )
        except OF_THE_ENDPOINT as error:
            failures.append(error)
            if endpoint is not wanted.endpoints[-1]:
                sink(progress.Notice(str(wanted.reference), f"{error.message}; the next place is asked"))
    raise together(failures)


def _pull_from(
    endpoint: Endpoint,
    *,
    store: Store,
    program: Path,
    wanted: PullRequest,
    sink: ProgressSink,
    cancellation: Cancellation,
) -> Pulled:
    request = Request(str(wanted.reference), endpoint.host, "resolve")
    retries = retries_at(endpoint, wanted, sink, cancellation)
    with store.stage("pull") as staging:
        staging.probe_filesystem()
        crane, content = ask(
            endpoint,
            program,
            staging.path,
            wanted.settings,
            request=request,
            question=lambda crane, request: crane.manifest(None, request, cancellation=cancellation),
            retries=retries,
        )
        with EarlyFetch(store, staging, crane, wanted, content, request=request, cancellation=cancellation) as early:
            # While crane fetches: importing pydantic takes longer than pulling a small image.
            from micropod_img.pull.image_pull import ImagePull  # noqa: PLC0415 - see above

            return ImagePull(
                store=store,
                staging=staging,
                crane=crane,
                request=request,
                wanted=wanted,
                retries=retries,
                sink=sink,
                cancellation=cancellation,
            ).run(content, early)


def retries_at(endpoint: Endpoint, wanted: PullRequest, sink: ProgressSink, cancellation: Cancellation) -> Retries:
    """Return what repeats the requests of a pull to one of its endpoints."""
    others_left = endpoint is not wanted.endpoints[-1]
    return Retries(str(wanted.reference), wanted.limits, others_left, sink, cancellation)


def current_digest(
    store: Store, program: Path, wanted: PullRequest, *, sink: ProgressSink, cancellation: Cancellation
) -> Digest:
    """Ask for the digest that a reference names now, and for nothing else; the first endpoint that answers decides.

    Raises:
        MicropodError: As the table of `micropod_img.pull.crane_errors` says.
    """
    failures: list[MicropodError] = []
    for endpoint in wanted.endpoints:
        try:
            with store.stage("resolve") as staging:
                _, digest = ask(
                    endpoint,
                    program,
                    staging.path,
                    wanted.settings,
                    request=Request(str(wanted.reference), endpoint.host, "resolve"),
                    question=lambda crane, request: crane.digest(request, cancellation=cancellation),
                    retries=retries_at(endpoint, wanted, sink, cancellation),
                )
                return digest
        except OF_THE_ENDPOINT as error:
            failures.append(error)
    raise together(failures)


def together(failures: Sequence[MicropodError]) -> MicropodError:
    """Return the error of the place that was asked last, the registry itself, with what each of them answered."""
    last = failures[-1]
    if len(failures) > 1:
        answers = [f"{error.endpoint or 'a mirror'}: {error.message}" for error in failures]
        last.detail = "\n".join([*answers, "", *(error.detail or "" for error in failures)])
        last.message += f" (asked before: {', '.join(error.endpoint or 'a mirror' for error in failures[:-1])})"
    return last
