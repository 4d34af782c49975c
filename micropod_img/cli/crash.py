"""Unexpected errors: their traceback goes to a log, and what the user sees says where."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img.config import home_directory
from micropod_img.errors import InternalError
from micropod_img.fsutil import make_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from micropod_img.cli.settings import Settings


def internal_error(problem: BaseException, settings: Settings) -> InternalError:
    """Log a bug and return what to tell of it.

    Args:
        problem: What was raised and nobody expected.
        settings: Of this call.
    """
    summary = "".join(traceback.format_exception_only(problem)).strip()
    trace = "".join(traceback.format_exception(problem))
    # Neither arguments nor local variables: they may hold secrets.
    log = _write_log(f"micropod-img {settings.command or ''}\n{trace}", os.environ)
    return InternalError(
        f"a bug in micropod-img: {summary}",
        hint=f"please report it with its log, {log}"
        if log
        else "no log could be written; -v shows what would be in it",
        detail=trace,
    )


def _write_log(text: str, environment: Mapping[str, str]) -> Path | None:
    name = f"micropod-img-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    for directory in _log_directories(environment):
        with contextlib.suppress(OSError):
            make_directory(directory)
            path = directory / name
            # O_EXCL: the last of the directories is everybody's.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
            return path
    return None


def _log_directories(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield where logs may go: the user's state directory (XDG Base Directory Specification 0.8), then any."""
    state = environment.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        yield Path(state) / "micropod"
    elif (home := home_directory(environment)) is not None:
        yield home / ".local" / "state" / "micropod"
    yield Path(tempfile.gettempdir())
