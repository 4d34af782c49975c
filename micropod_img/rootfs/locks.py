"""Locks named after what is made under them; who waits is told for whom."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from micropod_img import fsutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from micropod_img.cancellation import Cancellation


@contextlib.contextmanager
def only_maker(
    path: Path,
    purpose: str,
    *,
    on_wait: Callable[[str], None] | None = None,
    cancellation: Cancellation | None = None,
) -> Iterator[None]:
    """Be the one process that makes something.

    Args:
        path: The lock file, which the store's layout names.
        purpose: What is being done, for those who wait.
        on_wait: Called with the holder when there is one.
        cancellation: Ends the wait.
    """
    owner = f"process {os.getpid()} ({purpose})"
    lock = fsutil.locked(path, owner=owner, on_wait=on_wait, patience=0, cancellation=cancellation)
    with fsutil.disk_errors(path), lock:
        yield
