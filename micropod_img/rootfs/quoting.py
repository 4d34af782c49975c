"""Names and words that a layer brought, made fit for a terminal and a log."""

from __future__ import annotations

_SHOWN = 200


def printable(text: str) -> str:
    r"""Return a text with everything that is not a visible sign or a space written as ``\n``, ``\x1b``, ``\u202e``."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def quoted(name: bytes) -> str:
    """Return the name of an entry in quotes, in at most 200 characters or so, with nothing in it that acts."""
    shown = printable(name[:_SHOWN].decode("utf-8", "backslashreplace"))
    return f"'{shown}…'" if len(name) > _SHOWN else f"'{shown}'"
