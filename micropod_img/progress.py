"""What a long operation tells while it runs: frozen events, given to a callable that the caller passed in.

The library only emits; drawing bars or printing lines is the CLI's. Events may come from several threads, one call at a
time for each sink that `serialized` wrapped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - keeps the dataclasses resolvable at run time
from typing import TypeAlias

from micropod_img.digest import Digest  # noqa: TC001 - keeps the dataclasses resolvable at run time


@dataclass(frozen=True, slots=True)
class Resolving:
    """The registry is being asked what a reference means."""

    ref: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer of a fetch: its size in bytes, and whether the store already has it."""

    digest: Digest
    size: int
    present: bool


@dataclass(frozen=True, slots=True)
class FetchStarted:
    """The manifest is known: these layers make the image, some of them here already."""

    ref: str
    digest: Digest
    layers: tuple[LayerPlan, ...]


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """So many bytes of a layer have arrived; ``received == size`` when it is complete and verified."""

    ref: str
    digest: Digest
    received: int
    size: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another process holds what is needed, and this one has waited for it for two seconds.

    Attributes:
        ref: For which reference; the empty string where it is for none.
        subject: What is waited for.
        holder: Who has it.
        since: When that took it, in UTC; None where that is not known.
    """

    ref: str
    subject: str
    holder: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Retrying:
    """A fetch failed in a way that may pass; it is tried again after a delay in seconds."""

    ref: str
    attempt: int
    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know and that stops nothing."""

    ref: str
    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A reference is done: freshly pulled, or (``fetched`` false) found in the store as it was."""

    ref: str
    digest: Digest
    fetched: bool
    downloaded_bytes: int
    reused_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A reference failed; the error itself reaches the caller as an exception or in the report."""

    ref: str
    message: str


@dataclass(frozen=True, slots=True)
class CredentialFound:
    """A registry is shown a credential; ``source`` says where it came from, never what it is."""

    ref: str
    endpoint: str
    source: str


@dataclass(frozen=True, slots=True)
class PushStarted:
    """An image of so many bytes is being pushed to a registry."""

    ref: str
    endpoint: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class PushProgress:
    """Of so many bytes, so many are known to be at the registry."""

    ref: str
    done: int
    size: int


@dataclass(frozen=True, slots=True)
class VerifyStarted:
    """So many blobs of so many bytes are being read, to see whether they are what their names say."""

    blobs: int
    size: int


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """Of so many bytes, so many have been read."""

    done: int
    size: int


Event: TypeAlias = (
    Resolving
    | FetchStarted
    | LayerProgress
    | Waiting
    | Retrying
    | Notice
    | Finished
    | Failed
    | CredentialFound
    | PushStarted
    | PushProgress
    | VerifyStarted
    | VerifyProgress
)
ProgressSink: TypeAlias = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Drop the event: the sink of callers who do not want to know."""


def serialized(sink: ProgressSink) -> ProgressSink:
    """Wrap a sink so that events from several threads reach it one at a time."""
    lock = threading.Lock()

    def emit(event: Event) -> None:
        with lock:
            sink(event)

    return emit
