"""Pull several references at a time, each in a thread of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from micropod_img.cancellation import Cancellation
    from micropod_img.models import Image, PullFailure
    from micropod_img.pull.job import PullJob
    from micropod_img.reference import Reference

_WAKE_SECONDS = 0.1


def outcomes(
    job: PullJob, refs: Sequence[str | Reference], side_by_side: int, cancellation: Cancellation
) -> list[tuple[Image, int, int] | PullFailure]:
    """Return what each reference became, in their order.

    Args:
        job: Pulls each.
        refs: The references.
        side_by_side: How many at a time.
        cancellation: Is cancelled when this ends early.
    """
    if len(refs) <= 1:
        return [job.outcome(ref) for ref in refs]
    from concurrent.futures import ThreadPoolExecutor, wait  # noqa: PLC0415 - one reference needs no threads

    executor = ThreadPoolExecutor(max_workers=min(side_by_side, len(refs)))
    try:
        pulls = [executor.submit(job.outcome, ref) for ref in refs]
        # With a timeout: the kernel may give a signal to any thread, and Python sees it when this one wakes.
        while wait(pulls, _WAKE_SECONDS).not_done:
            pass
        return [one.result() for one in pulls]
    finally:
        # An interrupt reaches this thread; the others end their children when they see it.
        cancellation.cancel()
        executor.shutdown(cancel_futures=True)
