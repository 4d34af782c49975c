"""Errors as their users read them: what happened, the next step, and with ``-v`` all that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.render.text import one_line, printable

if TYPE_CHECKING:
    from micropod_img.errors import MicropodError
    from micropod_img.render.style import Style

PROGRAM = "micropod-img"


def error_text(error: MicropodError, style: Style, *, verbose: bool = False) -> str:
    """Return what to tell of an error.

    Args:
        error: The error.
        style: How it stands out.
        verbose: Whether to add code, stage, endpoint, and the words of crane or umoci.
    """
    # In one line each: a registry's words in there must not look like a line of ours.
    lines = [f"{style.bad(f'{PROGRAM}:')} {one_line(error.message)}"]
    if error.hint:
        lines.append(f"{style.bold('hint:')} {one_line(error.hint)}")
    if verbose:
        lines += _details(error)
    return "\n".join(lines)


def warning_text(message: str, style: Style) -> str:
    """Return what to tell of something that stops nothing."""
    return f"{style.notable(f'{PROGRAM}: warning:')} {one_line(message)}"


def _details(error: MicropodError) -> list[str]:
    known = [f"code {error.code}", f"exit status {error.exit_status}"]
    known += [f"stage {error.stage}"] if error.stage else []
    known += [f"endpoint {one_line(error.endpoint)}"] if error.endpoint else []
    known += ["may pass if tried again"] if error.retryable else []
    lines = [f"  {', '.join(known)}"]
    if error.detail:
        lines += [f"  | {line}" for line in printable(error.detail).splitlines()]
    return lines
