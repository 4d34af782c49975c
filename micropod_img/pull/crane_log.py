"""What crane's debug log (``--verbose``) tells that its errors do not: how long a registry asks to wait.

It shows headers and the bodies of small documents. Crane leaves out of it what credentials and token servers say; the
addresses of blobs, which may be signed, it does not. So nothing of it goes further than `without_traffic` lets it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_ENTRY: Final = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", re.MULTILINE)
_TRAFFIC: Final = re.compile(r"--> |<-- |HTTP/\d\S* \d{3} |[A-Z]+ \S+ HTTP/\d")
_REFUSAL: Final = re.compile(r"HTTP/\d\S* 429 ")
_TOKEN_ANSWER: Final = re.compile(r"(no token in bearer response:).*", re.DOTALL)
_LONGEST: Final = 10 * 24 * 3600.0


def retry_after(log: str, *, now: datetime | None = None) -> float | None:
    """Return how long the last refusal for too many requests asks to wait.

    Args:
        log: What crane wrote to stderr.
        now: The time, against which a date is held that comes without the registry's own.

    Returns:
        Seconds; None if no refusal says (RFC 9110, section 10.2.3: seconds or a date).
    """
    found = None
    for entry in _entries(log):
        if _REFUSAL.match(entry):
            headers = _headers(entry)
            found = _seconds(headers.get("retry-after", ""), headers.get("date", ""), now or datetime.now(UTC))
    return found


def without_traffic(log: str) -> str:
    """Return what crane would have written without ``--verbose``: its attempts that failed, and its last words.

    The answer of a token server that crane finds no token in is left out too: it may be there under another name.
    """
    kept = []
    for start, entry in _timed_entries(log):
        if not _TRAFFIC.match(entry):
            kept.append(start + entry)
            continue
        # The error follows the last entry with nothing in between that would tell it from the entry's own lines.
        body, error, words = entry.rpartition("\nError: ")
        if error and body:
            kept.append(f"Error: {words}")
    return _TOKEN_ANSWER.sub(r"\1 (left out)\n", "".join(kept))


def _timed_entries(log: str) -> list[tuple[str, str]]:
    starts = list(_ENTRY.finditer(log))
    if not starts:
        return [("", log)]
    ends = [*(match.start() for match in starts[1:]), len(log)]
    first = [("", log[: starts[0].start()])] if starts[0].start() else []
    return first + [(match[0], log[match.end() : end]) for match, end in zip(starts, ends, strict=True)]


def _entries(log: str) -> list[str]:
    return [entry for _, entry in _timed_entries(log)]


def _headers(entry: str) -> dict[str, str]:
    lines = entry.partition("\r\n\r\n")[0].splitlines()[1:] if "\r\n\r\n" in entry else entry.splitlines()[1:]
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            break
        headers.setdefault(name.strip().lower(), value.strip())
    return headers


def _seconds(text: str, date: str, now: datetime) -> float | None:
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), _LONGEST)
    at = _date(text)
    if at is None:
        return None
    # The registry's clock may be wrong, but then it is in both.
    return min(max((at - (_date(date) or now)).total_seconds(), 0.0), _LONGEST)


def _date(text: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
