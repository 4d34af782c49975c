"""Progress as JSON lines, for programs; the shape of each is versioned, and pinned by tests/render/test_progress.py."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from typing import TYPE_CHECKING

from micropod_img.progress import Event, LayerProgress, PushProgress, VerifyProgress, Waiting
from micropod_img.render.document import SCHEMA, error_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from micropod_img.errors import MicropodError

QUIET_SECONDS = 0.5
"""Seconds between two lines about the same layer."""


class JsonLines:
    """A sink that writes each event as one JSON object.

    Args:
        write: Takes each line.
        clock: Returns seconds.
    """

    def __init__(self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._said: dict[tuple[str, str], float] = {}

    def __call__(self, event: Event) -> None:
        """Write the event, unless it tells how far something is that was told of a moment ago."""
        key = _passing(event)
        if key is not None:
            now = self._clock()
            if now - self._said.get(key, -QUIET_SECONDS) < QUIET_SECONDS:
                return
            self._said[key] = now
        self._write(_line(event_object(event)))


def error_line(error: MicropodError) -> str:
    """Return an error as a line among those of the events."""
    return _line({"event": "error", "error": error_object(error)})


def event_object(event: Event) -> dict[str, object]:
    """Return an event as JSON: its name, as ``layer-progress`` for `LayerProgress`, and its members."""
    members = dataclasses.asdict(event)
    if isinstance(event, Waiting):
        members["since"] = None if event.since is None else event.since.isoformat()
    return {"event": re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(event).__name__).lower(), **members}


def _passing(event: Event) -> tuple[str, str] | None:
    """Return of what an event tells how far it is; None for one that tells more."""
    match event:
        case LayerProgress(ref, digest, received, size) if received < size:
            return ref, digest
        case PushProgress(ref, done, size) if done < size:
            return ref, ""
        case VerifyProgress(done, size) if done < size:
            return "", ""
        case _:
            return None


def _line(content: Mapping[str, object]) -> str:
    return json.dumps({"schema": SCHEMA, **content}, separators=(",", ":"))
