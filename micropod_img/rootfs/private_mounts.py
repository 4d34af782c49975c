"""A mount namespace for one piece of work: its mounts are seen by nobody else, and cannot outlive it.

The kernel keeps a mount namespace for each thread, so a thread of this process can have one; children that it starts
live in it. When the thread ends, or the whole process is killed, the mounts are gone, with nothing to be swept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from micropod_img.rootfs import syscalls
from micropod_img.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.cancellation import Cancellation

_Result = TypeVar("_Result")


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

    def private_work() -> _Result:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        # What is unmounted outside goes in here too, and is not kept busy; nothing in here reaches the outside.
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
        return work()

    thread = Work(private_work, name="private-mounts")
    try:
        thread.start()
        thread.wait()
    except BaseException:
        cancellation.cancel()
        thread.end()
        raise
    return thread.result()
