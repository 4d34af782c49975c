"""What the text of options means; typer gives it as it stands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from micropod_img.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_Word = TypeVar("_Word", bound=str)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)"
_LONGEST = 1e9  # more would overflow what waits for it


def duration(text: str | None, option: str) -> float | None:
    """Read a duration.

    Args:
        text: Seconds (``90``, ``1.5``), or numbers with units as Go writes them (``90s``, ``5m``, ``1h30m``).
        option: Where it was given, for the error.

    Returns:
        Seconds; None for no text.

    Raises:
        UsageError: It is no duration, or not above 0.
    """
    if text is None:
        return None
    seconds = None
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text):
        seconds = float(text)
    elif re.fullmatch(rf"(?:{_PART})+", text):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, text))
    if seconds is None or not 0 < seconds <= _LONGEST:
        raise UsageError(f"{option}: {text!r} is not a duration", hint="write 90, 90s, 5m or 1h30m; it is more than 0")
    return seconds


def count(text: str | None, option: str) -> int | None:
    """Read a whole number above 0.

    Raises:
        UsageError: It is none.
    """
    if text is None:
        return None
    if re.fullmatch(r"0*[1-9][0-9]{0,5}", text) is None:
        raise UsageError(f"{option}: {text!r} is not a number above 0", hint=f"write {option} 4")
    return int(text)


def choice(text: str, option: str, choices: Sequence[_Word]) -> _Word:
    """Return the one of several words that a text is.

    Raises:
        UsageError: It is none of them.
    """
    for word in choices:
        if word == text:
            return word
    raise UsageError(f"{option}: there is no {text!r}", hint=f"choose one of {', '.join(choices)}")
