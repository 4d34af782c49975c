"""Which way progress is shown on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from micropod_img.cli import output
from micropod_img.progress import CredentialFound, Event, FetchStarted, PushStarted, Resolving, VerifyStarted, silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.cli.settings import Settings
    from micropod_img.progress import ProgressSink
    from micropod_img.render.progress_bars import Bars

Mode: TypeAlias = Literal["auto", "plain", "json", "none"]
MODES: Final[tuple[Mode, ...]] = ("auto", "plain", "json", "none")

_WIPE_LINE: Final = "\r\x1b[K"
_USUAL_WIDTH: Final = 80  # of a terminal that does not say


@contextlib.contextmanager
def progress_to_stderr(mode: Mode, settings: Settings) -> Iterator[ProgressSink]:
    """Show progress inside the block.

    Args:
        mode: ``auto`` is nothing with ``-q``, bars on a terminal, and lines elsewhere.
        settings: The global options; is told if stderr becomes JSON lines.

    Yields:
        The sink, which never fails because of the terminal.
    """
    with _shown(mode, settings) as sink:
        yield sink if settings.verbose or mode == "json" else _without_credentials(sink)


def _without_credentials(sink: ProgressSink) -> ProgressSink:
    """Keep from a sink what only ``--verbose`` tells: where credentials came from."""

    def filtered(event: Event) -> None:
        if not isinstance(event, CredentialFound):
            sink(event)

    return filtered


@contextlib.contextmanager
def _shown(mode: Mode, settings: Settings) -> Iterator[ProgressSink]:
    style = output.style_for(sys.stderr)
    if mode == "auto" and not settings.quiet and _can_draw():
        with contextlib.closing(_Terminal()) as terminal:
            yield terminal
        return
    if mode == "json":
        from micropod_img.render.progress_json import JsonLines  # noqa: PLC0415 - asked for by programs only

        settings.json_lines = True
        yield JsonLines(output.write_error)
    elif mode == "plain" or (mode == "auto" and not settings.quiet):
        from micropod_img.render.progress_lines import PlainLines  # noqa: PLC0415 - not for bars

        yield PlainLines(output.write_error, style)
    elif settings.quiet:
        yield silent
    else:
        yield warnings()


def warnings() -> ProgressSink:
    """Return a sink that writes to stderr what a user should know in any case."""
    from micropod_img.render.progress_lines import Warnings  # noqa: PLC0415 - not for bars

    return Warnings(output.write_error, output.style_for(sys.stderr))


class _Terminal:
    """Bars on a terminal; rich, which draws them, is loaded when there is something to draw: crane runs meanwhile."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._has_status = False

    def __call__(self, event: Event) -> None:
        with contextlib.suppress(OSError):  # that a terminal went away stops nothing
            self._show(event)

    def close(self) -> None:
        """Leave the terminal as it was."""
        with contextlib.suppress(OSError):
            self._wipe_status()
            if self._bars is not None:
                self._bars.close()

    def _show(self, event: Event) -> None:
        from micropod_img.render.progress_lines import familiar, passing_line  # noqa: PLC0415 - found images show none

        if isinstance(event, Resolving) and self._bars is None:
            sys.stderr.write(f"{_WIPE_LINE}{_in_one_line(f'{familiar(event.ref)}: asking {event.endpoint} …')}")
            sys.stderr.flush()
            self._has_status = True
        elif isinstance(event, FetchStarted | VerifyStarted | PushStarted) and self._bars is None:
            from micropod_img.render.progress_bars import Bars  # noqa: PLC0415 - loads rich

            self._wipe_status()
            self._bars = Bars(sys.stderr, colour=output.style_for(sys.stderr).colour)
        if self._bars is not None:
            self._bars(event)
        if (line := passing_line(event, output.style_for(sys.stderr))) is not None:
            self._say(line)

    def _say(self, line: str) -> None:
        if self._bars is not None:
            self._bars.say(line)
        else:
            self._wipe_status()
            output.write_error(line)

    def _wipe_status(self) -> None:
        if self._has_status:
            sys.stderr.write(_WIPE_LINE)
            sys.stderr.flush()
            self._has_status = False


def _in_one_line(text: str) -> str:
    """Cut text that would take a second line of the terminal, where it could not be wiped away."""
    width = (os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_WIDTH) - 1
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _can_draw() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
