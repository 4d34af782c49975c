from __future__ import annotations

import threading
import time
from dataclasses import FrozenInstanceError
from typing import get_type_hints

import pytest

from micropod_img.progress import Event, Failed, FetchStarted, Notice, serialized, silent


def test_a_serialized_sink_gets_events_of_many_threads_one_at_a_time_and_all_of_them() -> None:
    inside = 0
    most = 0
    seen: list[Event] = []

    def sink(event: Event) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        seen.append(event)
        inside -= 1

    emit = serialized(sink)
    threads = [
        threading.Thread(target=lambda n=number: [emit(Notice(str(n), str(i))) for i in range(10)])
        for number in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(seen) == 50
    for number in range(5):
        assert [event.message for event in seen if isinstance(event, Notice) and event.ref == str(number)] == [
            str(i) for i in range(10)
        ]


def test_a_sink_that_fails_fails_its_caller_and_not_the_next_one() -> None:
    calls: list[Event] = []

    def sink(event: Event) -> None:
        calls.append(event)
        raise BrokenPipeError

    emit = serialized(sink)
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            emit(Failed("ref", "message"))
    assert len(calls) == 2


def test_the_silent_sink_takes_anything() -> None:
    silent(Failed("ref", "message"))


def test_events_cannot_be_changed_and_say_their_types_at_run_time() -> None:
    event = Failed("ref", "message")
    with pytest.raises(FrozenInstanceError):
        event.ref = "other"  # type: ignore[misc]
    assert set(get_type_hints(FetchStarted)) == {"ref", "digest", "layers"}
