"""Let something happen in the middle of what the package does, as another process might at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import pytest


class Meanwhile:
    """Does something, once for each time that it is told to, just before a function or method of the package runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.happened = 0

    def before(self, owner: type | ModuleType, name: str, action: Callable[[], object]) -> None:
        original = getattr(owner, name)
        waiting = [action]

        def patched(*arguments: object, **keywords: object) -> object:
            if waiting:
                self.happened += 1
                waiting.pop()()
            return original(*arguments, **keywords)

        self._monkeypatch.setattr(owner, name, patched)
