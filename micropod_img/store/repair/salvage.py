"""What can be read of an ``index.json`` that cannot be read: programs that write it in place tear it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from micropod_img.errors import IntegrityError
from micropod_img.store.documents import Members
from micropod_img.store.index import Entry, parse_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIST = re.compile(r'"manifests"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")


def salvaged_entries(content: bytes) -> tuple[Entry, ...]:
    """Return the entries that stand whole in a torn index, up to where it is torn.

    Args:
        content: What the file holds.
    """
    text = content.decode("utf-8", "replace")
    found = _LIST.search(text)
    return () if found is None else tuple(_entries(text, found.end()))


def _entries(text: str, position: int) -> Iterator[Entry]:
    decoder = json.JSONDecoder()
    while True:
        between = _BETWEEN.match(text, position)
        position = between.end() if between else position
        try:
            item, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return
        try:
            yield parse_entry(Members(item, "an entry"))
        except IntegrityError:
            continue
