"""The entry point: every way that a command can end becomes one exit status (CONTRACT.md, "Exit status")."""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import TYPE_CHECKING, Final

from micropod_img.cli import output
from micropod_img.cli.settings import Settings
from micropod_img.cli.signals import Interrupted, Received, interruptible
from micropod_img.errors import InterruptedBySignalError, MicropodError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMPLETION_VARIABLE: Final = "_MICROPOD_IMG_COMPLETE"
_GARBAGE_THRESHOLD: Final = 100_000
"""Objects after which cycles are looked for. With Python's 700 that is done over and over while modules are imported,
a twentieth of a warm start; most commands end before these are made."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What stands behind the program's name; this process's if None.

    Returns:
        The exit status.
    """
    if arguments is None:
        gc.set_threshold(_GARBAGE_THRESHOLD)
    settings = Settings()
    try:
        with interruptible() as received:
            return _status(sys.argv[1:] if arguments is None else arguments, settings, received)
    except Interrupted as signal:  # when all was done, or while it was said what failed
        return InterruptedBySignalError(signal.signal_number).exit_status
    finally:
        if arguments is None:
            # The process ends: cycles are not worth a last look, which takes a tenth of a warm start.
            gc.freeze()


def _status(arguments: Sequence[str], settings: Settings, received: Received) -> int:
    try:
        return _run(arguments, settings)
    except (Interrupted, Exception) as problem:  # noqa: BLE001 - no traceback is for a user's terminal
        error = _told(problem, settings, received)
    output.say_failure(error, settings)
    return error.exit_status


def _told(problem: BaseException, settings: Settings, received: Received) -> MicropodError:
    if received.number is not None:
        return InterruptedBySignalError(received.number)
    if isinstance(problem, MicropodError):
        return problem
    from micropod_img.cli.crash import internal_error  # noqa: PLC0415 - there are no bugs on most days

    return internal_error(problem, settings)


def _run(arguments: Sequence[str], settings: Settings) -> int:
    # Typer is imported here, where an interrupt is caught already.
    from micropod_img.cli import program  # noqa: PLC0415

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the locale is, no name may end the program
    if os.environ.get(_COMPLETION_VARIABLE):
        program.answer_completion()
    result = program.invoke(arguments, settings)
    if result is None:
        return 0
    output.say(result, settings)
    for error in result.errors:
        output.warn(error, settings)
    return result.errors[0].exit_status if result.errors else 0
