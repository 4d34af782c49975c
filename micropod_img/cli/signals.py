"""SIGINT and SIGTERM end the work in order: as an exception in the main thread, once."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CLEAN_UP_SECONDS = 3.0
_SOON_SECONDS = 0.01


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    No `Exception`, so that nothing takes it for the failure of one of several references.

    Args:
        signal_number: Which signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class Received:
    """The signal that came first, if one did."""

    number: int | None = None


@contextlib.contextmanager
def interruptible() -> Iterator[Received]:
    """Raise `Interrupted` inside the block when a signal comes.

    Those that follow at once do not, as they would break into the clean-up; who is still waiting after that may insist.
    A signal that the parent wants ignored (``nohup``, a shell's background job) stays ignored.

    Yields:
        What came: Python may make another exception of one that is raised in the middle of an import.
    """
    received = Received()
    deaf_until = 0.0

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal deaf_until
        now = time.monotonic()
        if now >= deaf_until:
            deaf_until = now + _CLEAN_UP_SECONDS
            received.number = received.number or number
            raise Interrupted(number)

    with _not_dropped(received):
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, interrupt)
        try:
            yield received
        finally:
            deaf_until = math.inf
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _not_dropped(received: Received) -> Iterator[None]:
    """Raise `Interrupted` once more where Python drops it: in destructors and callbacks of weak references."""

    def once_more(_number: int, _frame: FrameType | None) -> None:
        if received.number is not None:
            raise Interrupted(received.number)

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, Interrupted):
            signal.setitimer(signal.ITIMER_REAL, _SOON_SECONDS)
        else:
            hook(what)

    hook, handler = sys.unraisablehook, signal.signal(signal.SIGALRM, once_more)
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        signal.signal(signal.SIGALRM, handler)
