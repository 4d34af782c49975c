"""What the layers of one image take together, counted while several threads look at them.

A snapshot keeps its layer's part in a file beside ``fs``: an image of which some layers are snapshots already is
measured as a whole, and an image that was refused is refused again when the layers before its last are here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FILE: Final = "totals"


class ImageTotals:
    """Entries, and bytes of content, of the layers of one image as far as they were seen."""

    def __init__(self) -> None:
        self._entries = 0
        self._size = 0
        self._lock = threading.Lock()

    def add(self, entries: int, size: int) -> tuple[int, int]:
        """Count what one more entry or layer takes; return the entries and bytes so far."""
        with self._lock:
            self._entries += entries
            self._size += size
            return self._entries, self._size

    def add_snapshots(self, snapshots: Iterable[Path]) -> None:
        """Count what is unpacked already; a snapshot that keeps no count, or none that can be read, counts nothing."""
        for snapshot in snapshots:
            try:
                words = (snapshot / _FILE).read_text("ascii", "replace").split()
            except OSError:
                continue
            if [word.isdecimal() and len(word) < 20 for word in words] == [True, True]:  # noqa: PLR2004 - of 64 bits
                self.add(int(words[0]), int(words[1]))


def keep_totals(snapshot: Path, entries: int, size: int) -> None:
    """Write what a layer took beside its files."""
    (snapshot / _FILE).write_text(f"{entries} {size}\n", "ascii")
