"""Small pieces of text: sizes, times, and what comes from outside made harmless."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

_KIB = 1024
_UNITS = (("B", 1), ("KiB", _KIB), ("MiB", _KIB**2), ("GiB", _KIB**3), ("TiB", _KIB**4))
_SHORT_DIGEST = 12
_AGES = (
    ("year", 365 * 24 * 3600),
    ("month", 30 * 24 * 3600),
    ("week", 7 * 24 * 3600),
    ("day", 24 * 3600),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)


def printable(text: str) -> str:
    r"""Return text with everything escaped that a terminal would act on, or that would reorder what is seen.

    Args:
        text: May come from a registry; its line feeds and tabs stay.

    Returns:
        The same text with ``\x1b`` and the like where control, format and unassigned characters were.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else _escaped(one) for one in text)


def one_line(text: str) -> str:
    """Return `printable` text with its line feeds and tabs escaped as well."""
    return text if text.isprintable() else "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def counted(number: int, word: str, plural: str | None = None) -> str:
    """Return how many of something there are, as ``1 blob`` or ``2 blobs``."""
    return f"{number} {word if number == 1 else plural or f'{word}s'}"


def size(count: float) -> str:
    """Return a number of bytes in binary units, as ``300.1 MiB``."""
    unit, length = _unit(count)
    return f"{_in_unit(count, length)} {unit}"


def part_of(count: int, whole: int) -> str:
    """Return how much of something has come, as ``0.9 of 25.0 MiB``."""
    unit, length = _unit(whole)
    return f"{_in_unit(count, length)} of {_in_unit(whole, length)} {unit}"


def _unit(count: float) -> tuple[str, int]:
    for unit, length in _UNITS:
        # 1023.96 KiB would be rounded to 1024.0 KiB.
        if round(count / length, 1) < _KIB:
            return unit, length
    return _UNITS[-1]


def _in_unit(count: float, length: int) -> str:
    return f"{count:.0f}" if length == 1 else f"{count / length:.1f}"


def short_digest(digest: str) -> str:
    """Return the first 12 hex digits of a digest, enough to tell images apart and for ``rmi`` and ``inspect``."""
    return digest.partition(":")[2][:_SHORT_DIGEST]


def seconds(duration: float) -> str:
    """Return a duration as ``0.34 s``, ``12.3 s`` or ``2 min 05 s``."""
    if duration < 10:  # noqa: PLR2004 - three digits at most
        return f"{duration:.2f} s"
    if duration < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest:02} s"


def age(moment: datetime | None, now: datetime) -> str:
    """Return how long ago something was, roughly: ``3 weeks``; ``-`` if nobody knows.

    Args:
        moment: When it was; without a time zone it is UTC.
        now: The time now, in UTC.
    """
    if moment is None or moment.year == 1:  # how Go writes a time that was not set
        return "-"
    passed = (now - _in_utc(moment)).total_seconds()
    for unit, length in _AGES:
        # As docker does: "10 days" says more than "1 week".
        number = int(passed // length)
        if number > 1 or (number == 1 and unit in {"day", "hour", "minute", "second"}):
            return f"{number} {unit}s" if number > 1 else f"{number} {unit}"
    return "moments"


def timestamp(moment: datetime | None) -> str | None:
    """Return a time in UTC, to the second, as RFC 3339 writes it."""
    if moment is None:
        return None
    return _in_utc(moment).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _in_utc(moment: datetime) -> datetime:
    from datetime import UTC  # noqa: PLC0415 - whoever has a datetime has loaded it

    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # at the edge of what is a date at all
        return moment.replace(tzinfo=UTC)
