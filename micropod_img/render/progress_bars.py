"""Progress as bars: one for the whole of each image and one for each of its layers. Loads rich, so load it late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from micropod_img.progress import Event, Failed, FetchStarted, Finished, LayerProgress
from micropod_img.render.progress_lines import Transfer, familiar
from micropod_img.render.text import part_of, short_digest, size

if TYPE_CHECKING:
    from typing import TextIO

    from micropod_img.digest import Digest

_FRAMES_PER_SECOND = 8
_LINES_TO_SPARE = 4
_BYTES_WIDTH = len("100.0 of 100.0 MiB")
_RATE_WIDTH = len("1000.0 KiB/s")


class _Bytes(ProgressColumn):
    """``12.0 of 28.0 MiB``, in the units of the rest of the program."""

    def render(self, task: Task) -> Text:
        """Return what has come of the bytes of one bar."""
        return Text(part_of(int(task.completed), int(task.total or 0)), style="progress.download", justify="right")


class _Rate(ProgressColumn):
    """``3.1 MiB/s``."""

    def render(self, task: Task) -> Text:
        """Return how fast the bytes of one bar come."""
        speed = task.finished_speed or task.speed
        return Text(f"{size(speed)}/s" if speed else "", style="progress.data.speed", justify="right")


class _Fetch:
    """The bars of one image."""

    def __init__(self, bars: Progress, started: FetchStarted) -> None:
        self.transfer = Transfer(started, 0)
        self._bars = bars
        self.whole = bars.add_task(familiar(started.ref), total=self.transfer.size)
        missing = {layer.digest: layer.size for layer in started.layers if not layer.present}
        self.layers: dict[Digest, TaskID] = {
            digest: bars.add_task(f"  {short_digest(digest)}", total=total, visible=False)
            for digest, total in missing.items()
        }

    def note(self, event: LayerProgress) -> None:
        self.transfer.note(event)
        self._bars.update(self.whole, completed=self.transfer.received)
        if event.digest in self.layers:
            self._bars.update(self.layers[event.digest], completed=event.received, visible=True)

    def remove(self) -> None:
        for task in (self.whole, *self.layers.values()):
            self._bars.remove_task(task)


class Bars:
    """A sink that draws on a terminal until it is closed, and then leaves nothing there.

    Args:
        stream: The terminal.
        colour: Whether it is to be colourful.
    """

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self._console = Console(file=stream, no_color=not colour, highlight=False)
        self._fetches: dict[str, _Fetch] = {}
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            _Bytes(table_column=Column(no_wrap=True, min_width=_BYTES_WIDTH)),
            _Rate(table_column=Column(no_wrap=True, min_width=_RATE_WIDTH)),
            TimeRemainingColumn(compact=True),
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
                self._fetches[ref] = _Fetch(self._bars, event)
            case LayerProgress(ref) if ref in self._fetches:
                self._fetches[ref].note(event)
                self._make_room()
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
