"""A one-way switch by which one thread tells others to stop."""

from __future__ import annotations

import threading

from micropod_img.errors import MicropodError


class CancelledError(MicropodError):
    """The work was called off by its own process: another part failed, or a signal came."""

    default_code = "cancelled"


class Cancellation:
    """Set once, seen by everyone who holds it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask everyone who holds this to stop."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `CancelledError` if `cancel` was called."""
        if self._event.is_set():
            raise CancelledError("called off")

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake and raise `CancelledError` as soon as `cancel` is called."""
        if self._event.wait(seconds):
            raise CancelledError("called off")
