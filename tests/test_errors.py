from __future__ import annotations

import signal

import pytest

from micropod_img import errors
from micropod_img.cancellation import CancelledError
from micropod_img.errors import InterruptedBySignalError, MicropodError

# CONTRACT.md, "Exit status".
STATUSES = {
    "InternalError": 1,
    "UsageError": 2,
    "InvalidReference": 2,
    "NotFoundError": 3,
    "AuthError": 4,
    "UnavailableError": 5,
    "RateLimitedError": 6,
    "IntegrityError": 7,
    "UnsupportedError": 8,
    "ConflictError": 9,
    "DiskError": 10,
    "ToolError": 11,
    "UnsafeError": 12,
}


def test_every_kind_of_error_has_the_exit_status_of_the_contract() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MicropodError)]
    statuses = {kind.__name__: kind.exit_status for kind in kinds}
    del statuses["MicropodError"], statuses["InterruptedBySignalError"]
    assert statuses == STATUSES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_has_the_status_that_shells_give_it(number: signal.Signals) -> None:
    error = InterruptedBySignalError(number)
    assert error.exit_status == 128 + number
    assert error.code == "interrupted"
    assert InterruptedBySignalError(signal.SIGHUP).exit_status != error.exit_status


def test_an_error_has_its_kinds_code_unless_it_has_its_own() -> None:
    assert errors.NotFoundError("x").code == "not-found"
    assert errors.NotFoundError("x", code="manifest-unknown").code == "manifest-unknown"
    assert CancelledError("x").code == "cancelled"


def test_an_error_carries_everything_that_its_user_needs() -> None:
    error = errors.UnavailableError(
        "message", hint="hint", stage="fetch", endpoint="registry:5000", retryable=True, detail="detail"
    )
    assert str(error) == error.message == "message"
    assert (error.hint, error.stage, error.endpoint) == ("hint", "fetch", "registry:5000")
    assert (error.retryable, error.detail) == (True, "detail")


def test_an_error_that_says_no_more_is_not_worth_another_try() -> None:
    error = errors.DiskError("message")
    assert (error.hint, error.stage, error.endpoint, error.retryable, error.detail) == (None, None, None, False, None)
