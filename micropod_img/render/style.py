"""Colours and weights of terminals (ECMA-48, "select graphic rendition"), or none of them."""

from __future__ import annotations


class Style:
    """Marks text up for a terminal.

    Args:
        colour: Whether to; if not, text stays as it is.
    """

    def __init__(self, *, colour: bool = False) -> None:
        self.colour = colour

    def bold(self, text: str) -> str:
        """Return text that stands out."""
        return self._marked("1", text)

    def dim(self, text: str) -> str:
        """Return text that steps back."""
        return self._marked("2", text)

    def good(self, text: str) -> str:
        """Return text that says that something worked."""
        return self._marked("32", text)

    def bad(self, text: str) -> str:
        """Return text that says that something failed."""
        return self._marked("1;31", text)

    def notable(self, text: str) -> str:
        """Return text that says that something should be known."""
        return self._marked("33", text)

    def _marked(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text
