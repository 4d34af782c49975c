from __future__ import annotations

import _thread
import threading

import pytest

from micropod_img.work import Work


def test_what_work_returns_or_raises_reaches_who_asks() -> None:
    done = Work(lambda: 42, name="test")
    failed = Work(lambda: 1 // 0, name="test")
    for work in (done, failed):
        work.start()
        work.wait()
    assert done.result() == 42
    with pytest.raises(ZeroDivisionError):
        failed.result()


def test_an_interrupted_wait_is_not_the_end_of_the_work() -> None:
    go_on = threading.Event()

    def work() -> bool:
        _thread.interrupt_main()
        return go_on.wait(60)

    running = Work(work, name="test")
    with pytest.raises(KeyboardInterrupt):
        _started(running)
    threading.Timer(0.2, go_on.set).start()
    running.end()
    assert running.result()


def test_work_that_was_called_off_does_not_begin() -> None:
    work = Work(lambda: 42, name="test")
    work.end()
    work.start()
    with pytest.raises(IndexError):
        work.result()


def _started(work: Work[bool]) -> None:
    work.start()
    work.wait()
