"""Interrupts at chosen moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def interrupt_first_call(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Let a function of a module or class be interrupted, before it does anything, when it is next called."""
    real = getattr(owner, name)
    is_first = True

    def called(*arguments: object, **named: object) -> object:
        nonlocal is_first
        if is_first:
            is_first = False
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, called)
