"""Work in a thread of its own, whose end is waited for whatever interrupts the wait."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

_WAKE_SECONDS = 0.2


class Work(Generic[Result]):
    """Some work that a thread does; it ends with the process at the latest.

    Python's Thread.join() takes a thread for ended when an interrupt breaks into it, and does not wait the next time.

    Args:
        work: What is done.
        name: Of the thread, for people who look.
    """

    def __init__(self, work: Callable[[], Result], *, name: str) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._has_begun = False
        self._is_called_off = False
        self._has_ended = threading.Event()
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self) -> None:
        """Wait for the end of work that was begun."""
        # With a timeout: the kernel may give a signal to any thread, and Python sees it when this one wakes.
        while not self._has_ended.wait(_WAKE_SECONDS):
            pass

    def end(self) -> None:
        """Wait for the end of work that was called off, or do not let it begin: `start` may have been interrupted."""
        with self._lock:
            self._is_called_off = True
        if self._has_begun:
            self.wait()

    def result(self) -> Result:
        """Return what the work returned; its exception is raised here."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        with self._lock:
            if self._is_called_off:
                return
            self._has_begun = True
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        finally:
            self._has_ended.set()
