"""A mount namespace for one piece of work: its mounts are seen by nobody else, and cannot outlive it.

The kernel keeps a mount namespace for each thread, so a thread of this process can have one; children that it starts
live in it. When the thread ends, or the whole process is killed, the mounts are gone, with nothing to be swept.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from micropod_img.rootfs import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.cancellation import Cancellation

_Result = TypeVar("_Result")
_WAKE_SECONDS = 0.2


class _Work(threading.Thread, Generic[_Result]):
    def __init__(self, work: Callable[[], _Result]) -> None:
        super().__init__(name="private-mounts", daemon=True)
        self._work = work
        self._lock = threading.Lock()
        self._has_begun = False
        self._is_called_off = False
        self._has_ended = threading.Event()
        self._results: list[_Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        with self._lock:
            if self._is_called_off:
                return
            self._has_begun = True
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            # What is unmounted outside goes in here too, and is not kept busy; nothing in here reaches the outside.
            syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        finally:
            self._has_ended.set()

    def wait(self) -> None:
        """Wait for its end; Python's join() takes a thread for ended when an interrupt breaks into it."""
        # With a timeout: the kernel may give a signal to any thread, and Python sees it when this one wakes.
        while not self._has_ended.wait(_WAKE_SECONDS):
            pass

    def call_off(self) -> None:
        """Wait for its end if it has begun, and else do not let it begin."""
        with self._lock:
            self._is_called_off = True
        if self._has_begun:
            self.wait()

    def result(self) -> _Result:
        if self._error is not None:
            raise self._error
        return self._results[0]


def in_private_mounts(work: Callable[[], _Result], cancellation: Cancellation) -> _Result:
    """Do some work in a mount namespace of its own.

    Args:
        work: What is done there, in another thread.
        cancellation: Is cancelled when this thread is interrupted, and must end the work.

    Returns:
        What the work returned; its exceptions are raised here.

    Raises:
        OSError: This process may not have a mount namespace of its own.
    """
    thread = _Work(work)
    try:
        thread.start()
        thread.wait()
    except BaseException:
        cancellation.cancel()
        thread.call_off()
        raise
    return thread.result()
