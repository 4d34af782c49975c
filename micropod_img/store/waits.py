"""Tell of a wait for a lock as of any other event of a long operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.progress import Waiting

if TYPE_CHECKING:
    from micropod_img.locks import Wait, WaitObserver
    from micropod_img.progress import ProgressSink


def observer(sink: ProgressSink, ref: str = "") -> WaitObserver:
    """Return what tells a sink of waits, for a reference if there is one."""

    def tell(wait: Wait) -> None:
        sink(Waiting(ref, wait.subject, wait.holder, wait.since))

    return tell
