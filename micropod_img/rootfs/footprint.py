"""What the entries of a layer tell about whether it has the same files apart from its parents (`joining`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from micropod_img.rootfs.tar_headers import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from micropod_img.rootfs.tar_headers import Entry

_MOST_NAMES: Final = 100_000
"""Names that are remembered; a layer of more is taken for one that needs its parents."""


class Footprint:
    """The names of one layer, seen one after the other.

    Args:
        on_need: Is called once, as soon as it is clear that the layer needs its parents.
    """

    def __init__(self, on_need: Callable[[], None]) -> None:
        self._on_need = on_need
        self._needs_parents = False
        self._directories: set[bytes] = set()
        self._gone_through: set[bytes] = set()
        self._others: set[bytes] = set()

    @property
    def needs_parents(self) -> bool:
        """Whether it takes something away, changes the type of what it brought, or goes through a link of its own."""
        return self._needs_parents

    @property
    def directories(self) -> AbstractSet[bytes]:
        """The directories that are listed, but for the root, in their shortest form."""
        return self._directories

    def note(self, entry: Entry, *, is_whiteout: bool) -> None:
        """Take note of an entry whose name is a safe one."""
        if self._needs_parents:
            return
        path = [component for component in entry.name.split(b"/") if component not in (b"", b".")]
        name = b"/".join(path)
        if entry.kind == DIRECTORY:
            is_plain = name not in self._others
            if name:
                self._directories.add(name)
        else:
            is_plain = name not in self._directories and name not in self._gone_through
            self._others.add(name)
        if is_whiteout or not is_plain or not self._goes_through_directories(path) or self._are_many():
            self._needs_parents = True
            self._on_need()

    def _goes_through_directories(self, path: list[bytes]) -> bool:
        for length in range(len(path) - 1, 0, -1):
            parent = b"/".join(path[:length])
            if parent in self._gone_through:
                return True
            if parent in self._others:
                return False
            self._gone_through.add(parent)
        return True

    def _are_many(self) -> bool:
        return len(self._directories) + len(self._gone_through) + len(self._others) > _MOST_NAMES
