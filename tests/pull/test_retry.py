from __future__ import annotations

import pytest

from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.errors import (
    AuthError,
    IntegrityError,
    MicropodError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
)
from micropod_img.progress import Event, Retrying
from micropod_img.pull.crane import TimeLimits
from micropod_img.pull.retry import ATTEMPTS, Circumstances, Retries, delay_before_next


def lost() -> MicropodError:
    return UnavailableError("cut", code="connection-lost", retryable=True)


def error_of(code: str) -> MicropodError:
    return UnavailableError(code, code=code, retryable=True)


def limited(retry_after: float | None = None) -> RateLimitedError:
    error = RateLimitedError("429", retryable=True)
    error.retry_after = retry_after
    return error


def now(
    *, attempt: int = 1, reached: bool = True, others_left: bool = False, left: float | None = None, stall: float = 60
) -> Circumstances:
    return Circumstances(attempt, reached, others_left, left, stall)


@pytest.mark.parametrize(
    ("error", "circumstances", "expected"),
    [
        (lost(), now(), 0.5),
        (lost(), now(attempt=2), 2.0),
        (lost(), now(attempt=ATTEMPTS), None),
        (lost(), now(reached=False), 0.5),
        (lost(), now(others_left=True), 0.5),
        (lost(), now(left=0.0), None),
        (lost(), now(left=0.4), None),
        (lost(), now(left=0.6), 0.5),
        (error_of("server-error"), now(), 0.5),
        (error_of("server-error"), now(others_left=True), None),
        (error_of("stalled"), now(), 0.5),
        (error_of("stalled"), now(others_left=True), 0.5),
        (error_of("connection-refused"), now(), 0.5),
        (error_of("connection-refused"), now(reached=False), None),
        (error_of("unknown-host"), now(reached=False), None),
        (error_of("timeout"), now(reached=False), None),
        (limited(), now(reached=False), 0.5),
        (limited(30), now(), 30.0),
        (limited(30), now(left=29), None),
        (limited(30), now(left=31), 30.0),
        (limited(90), now(), None),
        (limited(90), now(stall=120), 90.0),
        (limited(0), now(attempt=2), 2.0),
        (limited(1), now(others_left=True), None),
        (IntegrityError("x", code="digest-mismatch"), now(), 0.0),
        (IntegrityError("x", code="digest-mismatch"), now(attempt=2), None),
        (IntegrityError("x", code="diff-id-count"), now(), None),
        (NotFoundError("x", code="manifest-unknown"), now(), None),
        (NotFoundError("x", code="blob-unknown"), now(), None),
        (AuthError("x", code="unauthorized"), now(), None),
        (UnavailableError("x", code="tls"), now(), None),
    ],
)
def test_trying_again_depends_on_what_went_wrong_and_where(
    error: MicropodError, circumstances: Circumstances, expected: float | None
) -> None:
    assert delay_before_next(error, circumstances, jitter=1.0) == expected


@pytest.mark.parametrize("jitter", [0.8, 1.2])
def test_jitter_never_makes_the_wait_shorter_than_the_registry_asks_for(jitter: float) -> None:
    assert delay_before_next(lost(), now(), jitter=jitter) == pytest.approx(0.5 * jitter)
    delay = delay_before_next(limited(30), now(), jitter=jitter)
    assert delay is not None
    assert delay >= 30


def retries(events: list[Event], cancellation: Cancellation | None = None) -> Retries:
    limits = TimeLimits(timeout=None, stall_timeout=60)
    return Retries(
        "example.com/app:v1", limits, others_left=False, sink=events.append, cancellation=cancellation or Cancellation()
    )


@pytest.mark.usefixtures("_impatient")
def test_work_is_repeated_until_it_succeeds_and_each_time_is_told() -> None:
    events: list[Event] = []

    def work(attempt: int) -> str:
        if attempt < ATTEMPTS:
            raise lost()
        return f"attempt {attempt}"

    assert retries(events).run(work, reached=lambda: True) == f"attempt {ATTEMPTS}"
    assert [event.attempt for event in events if isinstance(event, Retrying)] == [2, 3]


@pytest.mark.usefixtures("_impatient")
def test_the_last_error_is_the_one_that_is_raised() -> None:
    def work(attempt: int) -> None:
        raise UnavailableError(f"attempt {attempt}", code="connection-lost", retryable=True)

    with pytest.raises(UnavailableError, match=f"attempt {ATTEMPTS}"):
        retries([]).run(work, reached=lambda: True)


def test_a_wait_ends_when_the_work_is_called_off() -> None:
    cancellation = Cancellation()
    cancellation.cancel()

    def work(_attempt: int) -> None:
        raise limited(50)

    with pytest.raises(CancelledError):
        retries([], cancellation).run(work, reached=lambda: True)
