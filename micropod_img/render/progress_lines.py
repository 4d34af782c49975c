"""Progress as plain lines, for logs and for whoever reads no bars: each step, and now and then how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from micropod_img.progress import (
    CredentialFound,
    Event,
    FetchStarted,
    LayerProgress,
    Notice,
    PushProgress,
    PushStarted,
    Resolving,
    Retrying,
    VerifyProgress,
    VerifyStarted,
    Waiting,
)
from micropod_img.reference import Reference
from micropod_img.render.errors import warning_text
from micropod_img.render.text import counted, one_line, seconds, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from micropod_img.digest import Digest
    from micropod_img.render.style import Style

QUIET_SECONDS = 5.0
"""Seconds between two lines that say how far a fetch is."""


class Transfer:
    """How far the fetch of one image is.

    Args:
        started: What was told at its beginning.
        now: The time then.
    """

    def __init__(self, started: FetchStarted, now: float) -> None:
        missing = {layer.digest: layer.size for layer in started.layers if not layer.present}
        self.layers = len(missing)
        self.size = sum(missing.values())
        self.began = now
        self._received: dict[Digest, int] = dict.fromkeys(missing, 0)

    @property
    def received(self) -> int:
        """Bytes that have arrived."""
        return sum(self._received.values())

    def note(self, event: LayerProgress) -> bool:
        """Take note of what has arrived; return whether that was the last of it."""
        before = self.received
        if event.digest in self._received:
            self._received[event.digest] = event.received
        return before < self.size <= self.received


class PlainLines:
    """A sink that writes lines.

    Args:
        write: Takes each line.
        style: How warnings stand out.
        clock: Returns seconds.
    """

    def __init__(
        self, write: Callable[[str], None], style: Style, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._style = style
        self._clock = clock
        self._transfers: dict[str, Transfer] = {}
        self._said: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Write what the event is worth."""
        for line in self._lines(event):
            self._write(line)

    def _lines(self, event: Event) -> Iterable[str]:
        match event:
            case Resolving(ref, endpoint):
                yield f"{familiar(ref)}: asking {one_line(endpoint)}"
            case FetchStarted(ref, _, layers):
                transfer = Transfer(event, self._clock())
                self._transfers[ref] = transfer
                self._said[ref] = transfer.began
                if transfer.layers:
                    yield f"{familiar(ref)}: fetching {transfer.layers} of {len(layers)} layers, {size(transfer.size)}"
            case LayerProgress(ref):
                yield from self._advanced(event)
            case VerifyStarted(blobs, whole):
                self._said[""] = self._clock()
                yield f"reading {counted(blobs, 'blob')}, {size(whole)}"
            case VerifyProgress(done, whole) if done < whole:
                yield from self._so_far("", done, whole)
            case PushStarted(ref, endpoint, _, whole):
                self._said[ref] = self._clock()
                yield f"{familiar(ref)}: pushing {size(whole)} to {one_line(endpoint)}"
            case PushProgress(ref, done, whole) if done < whole:
                yield from self._so_far(ref, done, whole)
            case _:
                if (line := passing_line(event, self._style)) is not None:
                    yield line

    def _so_far(self, ref: str, done: int, whole: int) -> Iterable[str]:
        now = self._clock()
        if now - self._said[ref] >= QUIET_SECONDS:
            self._said[ref] = now
            prefix = f"{familiar(ref)}: " if ref else ""
            yield f"{prefix}{100 * done // whole} % of {size(whole)}"

    def _advanced(self, event: LayerProgress) -> Iterable[str]:
        transfer = self._transfers.get(event.ref)
        if transfer is None:
            return
        now = self._clock()
        done = transfer.note(event)
        passed = now - transfer.began
        rate = f"{size(transfer.received / passed)}/s" if passed > 0 else "at once"
        if done:
            yield f"{familiar(event.ref)}: fetched {size(transfer.size)} in {seconds(passed)} ({rate})"
        elif now - self._said[event.ref] >= QUIET_SECONDS:
            self._said[event.ref] = now
            percent = 100 * transfer.received // max(transfer.size, 1)  # a manifest may call a layer empty
            yield f"{familiar(event.ref)}: {percent} % of {size(transfer.size)} ({rate})"


class Warnings:
    """A sink that writes nothing but what its user should know in any case.

    Args:
        write: Takes each line.
        style: How warnings stand out.
    """

    def __init__(self, write: Callable[[str], None], style: Style) -> None:
        self._write = write
        self._style = style

    def __call__(self, event: Event) -> None:
        """Write a notice, and for whom is waited; leave the rest."""
        if isinstance(event, Notice | Waiting) and (line := passing_line(event, self._style)) is not None:
            self._write(line)


def passing_line(event: Event, style: Style) -> str | None:
    """Return a line for what holds up or concerns a pull; None for an event that is no news of that kind."""
    match event:
        case Waiting():
            return _waiting_line(event)
        case Retrying(ref, attempt, delay, reason):
            return f"{familiar(ref)}: {one_line(reason)}; trying again in {seconds(delay)}, attempt {attempt}"
        case Notice(_, message):
            return warning_text(message, style)
        case CredentialFound(ref, endpoint, source):
            return f"{familiar(ref)}: {one_line(endpoint)} is shown a credential: {one_line(source)}"
        case _:
            return None


def _waiting_line(event: Waiting) -> str:
    prefix = f"{familiar(event.ref)}: " if event.ref else ""
    since = "" if event.since is None else f" since {event.since.astimezone():%H:%M:%S}"
    return f"{prefix}waiting for {one_line(event.subject)}, which {one_line(event.holder)} has locked{since}"


def familiar(ref: str) -> str:
    """Return a canonical reference in the form that users know."""
    return Reference.parse(ref).familiar
