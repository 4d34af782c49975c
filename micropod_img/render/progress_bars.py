"""Progress as bars: one for the whole of each image and one for each of its layers. Loads rich, so load it late."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from micropod_img.progress import (
    Event,
    Failed,
    FetchStarted,
    Finished,
    LayerProgress,
    PushProgress,
    PushStarted,
    VerifyProgress,
    VerifyStarted,
)
from micropod_img.render.progress_lines import Transfer, familiar
from micropod_img.render.text import counted, part_of, short_digest, size

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

_FRAMES_PER_SECOND = 8
_LINES_TO_SPARE = 4
_SPEED_SECONDS = 10.0
_GUESS_SECONDS = 0.5
_BYTES_WIDTH = len("100.0 of 100.0 MiB")
_RATE_WIDTH = len("1000.0 KiB/s")


class _Bytes(ProgressColumn):
    """``12.0 of 28.0 MiB``, in the units of the rest of the program."""

    def render(self, task: Task) -> Text:
        """Return what has come of the bytes of one bar."""
        return Text(part_of(int(task.completed), int(task.total or 0)), style="progress.download", justify="right")


class _Speed:
    """How fast bytes came in the last seconds. Rich's own estimate begins with gigabytes a second.

    Args:
        clock: Returns seconds.
        received: Bytes that there are already.
    """

    def __init__(self, clock: Callable[[], float], received: int = 0) -> None:
        self._clock = clock
        self._samples = deque([(clock(), received)])

    def note(self, received: int) -> None:
        """Take note of how many bytes there are by now."""
        now = self._clock()
        self._samples.append((now, received))
        while self._samples[1][0] < now - _SPEED_SECONDS:
            self._samples.popleft()

    def per_second(self) -> float | None:
        """Return bytes per second; None as long as that would be a guess."""
        (began, before), (now, received) = self._samples[0], self._samples[-1]
        return (received - before) / (now - began) if now - began >= _GUESS_SECONDS else None


class _Rate(ProgressColumn):
    """``3.1 MiB/s``."""

    def render(self, task: Task) -> Text:
        """Return how fast the bytes of one bar come."""
        speed = _per_second(task)
        return Text(f"{size(speed)}/s" if speed else "", style="progress.data.speed", justify="right")


class _TimeLeft(ProgressColumn):
    """``00:12``."""

    def render(self, task: Task) -> Text:
        """Return how long the rest of one bar will take at the speed that it has."""
        speed = _per_second(task)
        if not speed or task.remaining is None:
            return Text("--:--", style="progress.remaining")
        minutes, rest = divmod(math.ceil(task.remaining / speed), 60)
        hours, minutes = divmod(minutes, 60)
        shown = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
        return Text(shown, style="progress.remaining")


def _per_second(task: Task) -> float | None:
    speed: _Speed | None = task.fields["speed"]
    return None if speed is None else speed.per_second()


class _Fetch:
    """The bars of one image."""

    def __init__(self, bars: Progress, started: FetchStarted, clock: Callable[[], float]) -> None:
        self._bars = bars
        self._transfer = Transfer(started, clock())
        self._speeds: dict[TaskID, _Speed | None] = {}
        self._clock = clock
        self.whole = self._add(familiar(started.ref), self._transfer.size, visible=True)
        missing = {layer.digest: layer.size for layer in started.layers if not layer.present}
        self._layers = {
            digest: self._add(f"  {short_digest(digest)}", total, visible=False) for digest, total in missing.items()
        }

    def note(self, event: LayerProgress) -> None:
        """Draw what has come of a layer."""
        self._transfer.note(event)
        self._update(self.whole, self._transfer.received)
        if event.digest in self._layers:
            self._update(self._layers[event.digest], event.received)

    def remove(self) -> None:
        """Take the bars away."""
        for task in self._speeds:
            self._bars.remove_task(task)

    def _add(self, name: str, total: int, *, visible: bool) -> TaskID:
        speed = _Speed(self._clock) if visible else None
        task = self._bars.add_task(name, total=total, visible=visible, speed=speed)
        self._speeds[task] = speed
        return task

    def _update(self, task: TaskID, received: int) -> None:
        speed = self._speeds[task]
        if speed is None:
            # The bytes that are here when a layer is first seen came in a time that nobody knows.
            speed = self._speeds[task] = _Speed(self._clock, received)
            self._bars.update(task, visible=True, speed=speed)
        speed.note(received)
        self._bars.update(task, completed=received)


class _Whole:
    """The one bar of a verification, or of a push."""

    def __init__(self, bars: Progress, name: str, whole: int, clock: Callable[[], float]) -> None:
        self._bars = bars
        self._speed = _Speed(clock)
        self._task = bars.add_task(name, total=whole, speed=self._speed)

    def note(self, done: int) -> None:
        """Draw what is done."""
        self._speed.note(done)
        self._bars.update(self._task, completed=done)

    def remove(self) -> None:
        """Take the bar away."""
        self._bars.remove_task(self._task)


class Bars:
    """A sink that draws on a terminal until it is closed, and then leaves nothing there.

    Args:
        stream: The terminal.
        colour: Whether it is to be colourful.
        clock: Returns seconds.
    """

    def __init__(self, stream: TextIO, *, colour: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._console = Console(file=stream, no_color=not colour, highlight=False)
        self._fetches: dict[str, _Fetch] = {}
        self._whole: _Whole | None = None
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            _Bytes(table_column=Column(no_wrap=True, min_width=_BYTES_WIDTH)),
            _Rate(table_column=Column(no_wrap=True, min_width=_RATE_WIDTH)),
            _TimeLeft(table_column=Column(no_wrap=True)),
            console=self._console,
            refresh_per_second=_FRAMES_PER_SECOND,
            transient=True,
            expand=True,
        )
        self._bars.start()

    def __call__(self, event: Event) -> None:
        """Draw what the event changes."""
        match event:
            case FetchStarted(ref) if any(not layer.present for layer in event.layers):
                self._fetches[ref] = _Fetch(self._bars, event, self._clock)
            case LayerProgress(ref) if ref in self._fetches:
                self._fetches[ref].note(event)
                self._make_room()
            case VerifyStarted(blobs, whole):
                self._whole = _Whole(self._bars, f"reading {counted(blobs, 'blob')}", whole, self._clock)
            case PushStarted(ref, _, _, whole):
                self._whole = _Whole(self._bars, f"pushing {familiar(ref)}", whole, self._clock)
            case VerifyProgress(done) | PushProgress(_, done) if self._whole is not None:
                self._whole.note(done)
                if (
                    isinstance(event, VerifyProgress) and done == event.size
                ):  # what a repair then does has bars of its own
                    self._whole.remove()
                    self._whole = None
            case Finished(ref) | Failed(ref) if ref in self._fetches:
                self._fetches.pop(ref).remove()
            case _:
                pass

    def say(self, line: str) -> None:
        """Write a line above the bars."""
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def close(self) -> None:
        """Wipe the bars away."""
        self._bars.stop()

    def _make_room(self) -> None:
        """Hide layers that are complete when there are more bars than lines."""
        visible = [task for task in self._bars.tasks if task.visible]
        excess = len(visible) - max(self._console.height - _LINES_TO_SPARE, 1)
        wholes = {fetch.whole for fetch in self._fetches.values()}
        for task in visible:
            if excess <= 0:
                return
            if task.finished and task.id not in wholes:
                self._bars.update(task.id, visible=False)
                excess -= 1
