"""When to ask a registry again, and after how long: a policy without side effects, and the loop that follows it.

Crane repeats 408, 429 and 5xx by itself, three times within four seconds, and nothing else: a body that was cut is lost
to it. What is asked again here is idempotent, and layers that arrived whole are not fetched twice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from micropod_img import progress
from micropod_img.errors import MicropodError, RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.cancellation import Cancellation
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.crane import TimeLimits

_Answer = TypeVar("_Answer")

ATTEMPTS: Final = 3
_FIRST_DELAY: Final = 0.5
_FACTOR: Final = 4.0

# Where the registry has not answered yet: that it cannot be found or connected to is most often a wrong name, and its
# user is better told at once.
_WORTHWHILE_AT_FIRST: Final = frozenset({"connection-lost", "server-error", "rate-limited"})
# Crane has tried these for four seconds; the next place to ask may do better at once.
_BETTER_ELSEWHERE: Final = frozenset({"server-error", "rate-limited"})
# An accident on the way once; twice the same place has wrong bytes.
_WORTH_ONE_MORE: Final = frozenset({"digest-mismatch", "size-mismatch"})


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the decision depends on, besides the error.

    Attributes:
        attempt: How many attempts have failed.
        reached: Whether the registry has answered this pull before.
        others_left: Whether there is another place to ask.
        seconds_left: Until the end of the time for all of it; None for no limit.
        stall_timeout: The longest wait for a sign of life; the longest wait at all where there is no limit.
    """

    attempt: int
    reached: bool
    others_left: bool
    seconds_left: float | None
    stall_timeout: float


def delay_before_next(error: MicropodError, now: Circumstances, *, jitter: float) -> float | None:
    """Decide whether to ask again.

    Args:
        error: Why the last attempt failed.
        now: The circumstances.
        jitter: A factor near 1, so that a fleet does not come back all at once.

    Returns:
        Seconds to wait before that; None: it is over. Never longer than there is time, and never shorter than what the
        registry asks for (Retry-After, RFC 9110, section 10.2.3).
    """
    if now.attempt >= ATTEMPTS or (now.seconds_left is not None and now.seconds_left <= 0):
        return None
    if error.code in _WORTH_ONE_MORE:
        return 0.0 if now.attempt == 1 else None
    if not error.retryable or (not now.reached and error.code not in _WORTHWHILE_AT_FIRST):
        return None
    if now.others_left and error.code in _BETTER_ELSEWHERE:
        return None
    delay = _FIRST_DELAY * _FACTOR ** (now.attempt - 1) * jitter
    if isinstance(error, RateLimitedError) and error.retry_after is not None:
        delay = max(error.retry_after, delay)
    longest = now.stall_timeout if now.seconds_left is None else now.seconds_left
    return delay if delay < longest else None


@dataclass(frozen=True, slots=True)
class Retries:
    """Does pieces of work for one reference at one registry until they succeed or trying again is no use.

    Attributes:
        ref: The reference, for who is told of it.
        limits: How long all of it may take.
        others_left: Whether there is another place to ask.
        sink: Is told of each retry.
        cancellation: Ends the waits.
    """

    ref: str
    limits: TimeLimits
    others_left: bool
    sink: ProgressSink
    cancellation: Cancellation

    def run(self, work: Callable[[int], _Answer], *, reached: Callable[[], bool]) -> _Answer:
        """Do a piece of work.

        Args:
            work: Is called with the number of the attempt, from 1.
            reached: Returns whether the registry has answered before, by now.

        Raises:
            MicropodError: The error of the last attempt.
        """
        attempt = 1
        while True:
            try:
                return work(attempt)
            except MicropodError as error:
                now = Circumstances(
                    attempt, reached(), self.others_left, self.limits.seconds_left(), self.limits.stall_timeout
                )
                delay = delay_before_next(error, now, jitter=random.uniform(0.8, 1.2))  # noqa: S311 - spreads load
                if delay is None:
                    raise
                self.sink(progress.Retrying(self.ref, attempt + 1, delay, error.message))
                self.cancellation.sleep(delay)
            attempt += 1
