"""SIGINT and SIGTERM end the work in order: as an exception in the main thread, once."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    No `Exception`, so that nothing takes it for the failure of one of several references.

    Args:
        signal_number: Which signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` inside the block when a signal comes.

    Only the first one raises: those that follow must not break into the clean-up. A signal that the parent wants
    ignored (``nohup``, a shell's background job) stays ignored.
    """
    caught = False

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal caught
        if not caught:
            caught = True
            raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
