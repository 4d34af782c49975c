"""Say it: stdout gets the result, once; stderr gets errors."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from micropod_img.errors import DiskError, MicropodError
from micropod_img.render.style import Style

if TYPE_CHECKING:
    from typing import TextIO

    from micropod_img.cli.result import Result
    from micropod_img.cli.settings import Settings


class OutputClosedError(MicropodError):
    """Whoever read stdout is gone; the status is what a shell reports of a program that SIGPIPE ended."""

    exit_status = 141
    default_code = "output-closed"


def style_for(stream: TextIO | None) -> Style:
    """Return the style of a stream: colours on a terminal, unless ``$NO_COLOR`` or a dumb one (no-color.org)."""
    wanted = stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")
    return Style(colour=wanted and os.environ.get("TERM") != "dumb")


def say(result: Result, settings: Settings) -> None:
    """Write a result to stdout in the form that was asked for.

    Raises:
        OutputClosedError: Nobody reads it.
        DiskError: It cannot be written.
    """
    if settings.as_json:
        from micropod_img.render.document import document  # noqa: PLC0415 - most calls want text

        write(document(settings.command, result.data(), result.errors[0] if result.errors else None))
    elif settings.quiet:
        write(result.quiet())
    else:
        write(result.text(style_for(sys.stdout)))


def say_failure(error: MicropodError, settings: Settings) -> None:
    """Write an error to stderr and, if JSON was asked for, the one document of a command that failed to stdout."""
    warn(error, settings)
    if settings.as_json:
        from micropod_img.render.document import document  # noqa: PLC0415 - most calls want text

        with contextlib.suppress(MicropodError):  # that stdout cannot be written is said already, or less important
            write(document(settings.command, None, error))


def warn(error: MicropodError, settings: Settings) -> None:
    """Write an error to stderr; that nobody reads the output is no news to anyone."""
    if isinstance(error, OutputClosedError):
        return
    if settings.json_lines:
        from micropod_img.render.progress_json import error_line  # noqa: PLC0415 - asked for by programs only

        write_error(error_line(error))
        return
    from micropod_img.render.errors import error_text  # noqa: PLC0415 - most calls succeed

    write_error(error_text(error, style_for(sys.stderr), verbose=settings.verbose))


def write(text: str) -> None:
    """Write lines to stdout; nothing for no text.

    Raises:
        OutputClosedError: Nobody reads it.
        DiskError: It cannot be written.
    """
    if not text or sys.stdout is None:
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        _forget_unwritten()
        raise OutputClosedError("nobody reads standard output") from error
    except OSError as error:
        _forget_unwritten()
        raise DiskError(f"standard output cannot be written: {error.strerror}", code="output") from error


def write_error(text: str) -> None:
    """Write lines to stderr; that nobody reads them stops nothing."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def _forget_unwritten() -> None:
    """Let Python's own flush at exit have somewhere to go (documentation of `signal`, "Note on SIGPIPE")."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
