from __future__ import annotations

import threading
import time

import pytest

from micropod_img.cancellation import Cancellation, CancelledError


def test_nothing_is_cancelled_until_somebody_says_so() -> None:
    cancellation = Cancellation()
    cancellation.check()
    cancellation.sleep(0)
    assert not cancellation.cancelled


def test_once_cancelled_everyone_sees_it_again_and_again() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    cancellation.cancel()
    assert cancellation.cancelled
    for _ in range(2):
        with pytest.raises(CancelledError):
            cancellation.check()
        with pytest.raises(CancelledError):
            cancellation.sleep(60)


def test_a_sleeper_wakes_as_soon_as_its_work_is_called_off() -> None:
    cancellation = Cancellation()
    threading.Timer(0.05, cancellation.cancel).start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        cancellation.sleep(60)
    assert time.monotonic() - started < 10
