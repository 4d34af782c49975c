from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from micropod_img.errors import RateLimitedError
from micropod_img.progress import (
    Event,
    Failed,
    FetchStarted,
    Finished,
    LayerPlan,
    LayerProgress,
    Notice,
    PushProgress,
    PushStarted,
    Resolving,
    Retrying,
    VerifyProgress,
    VerifyStarted,
    Waiting,
)
from micropod_img.render.progress_bars import Bars
from micropod_img.render.progress_json import JsonLines, error_line
from micropod_img.render.progress_lines import PlainLines, Warnings
from micropod_img.render.style import Style
from tests.render.values import MIB, digest

if TYPE_CHECKING:
    from collections.abc import Sequence

NOON = datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)
REF = "docker.io/library/app:1"
PLAN = (
    LayerPlan(digest("a"), 3 * MIB, present=False),
    LayerPlan(digest("b"), MIB, present=False),
    LayerPlan(digest("c"), 5 * MIB, present=True),
)
STARTED = FetchStarted(REF, digest("f"), PLAN)


def received(layer: int, count: int) -> LayerProgress:
    return LayerProgress(REF, PLAN[layer].digest, count, PLAN[layer].size)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def lines(events: Sequence[Event | float]) -> list[str]:
    """Return what plain lines there are for events; numbers are seconds that pass."""
    clock, written = Clock(), list[str]()
    sink = PlainLines(written.append, Style(), clock=clock)
    for event in events:
        if isinstance(event, float):
            clock.now += event
        else:
            sink(event)
    return written


def test_a_pull_is_a_line_for_each_step() -> None:
    events: list[Event | float] = [
        Resolving(REF, "registry.example.com"),
        STARTED,
        1.0,
        received(0, MIB),
        1.0,
        received(1, MIB),
        received(0, 3 * MIB),
        Finished(REF, digest("f"), fetched=True, downloaded_bytes=4 * MIB, reused_bytes=5 * MIB),
    ]
    assert lines(events) == [
        "app:1: asking registry.example.com",
        "app:1: fetching 2 of 3 layers, 4.0 MiB",
        "app:1: fetched 4.0 MiB in 2.00 s (2.0 MiB/s)",
    ]


def test_a_long_fetch_says_now_and_then_how_far_it_is() -> None:
    ticks: list[Event | float] = [STARTED]
    for tick in range(1, 50):
        ticks += [0.25, received(0, tick * 20_000)]
    assert lines(ticks)[1:] == [
        "app:1: 9 % of 4.0 MiB (78.1 KiB/s)",
        "app:1: 19 % of 4.0 MiB (78.1 KiB/s)",
    ]


def test_a_push_says_now_and_then_how_far_it_is() -> None:
    started = PushStarted(REF, "registry.example.com", digest("f"), 10 * MIB)
    ticks: list[Event | float] = [started]
    for tick in range(1, 40):
        ticks += [0.25, PushProgress(REF, tick * MIB // 4, 10 * MIB)]
    assert lines([*ticks, PushProgress(REF, 10 * MIB, 10 * MIB)]) == [
        "app:1: pushing 10.0 MiB to registry.example.com",
        "app:1: 50 % of 10.0 MiB",
    ]


def test_a_fetch_that_needs_no_layer_says_nothing() -> None:
    assert lines([FetchStarted(REF, digest("f"), PLAN[2:]), FetchStarted(REF, digest("f"), ())]) == []


def test_layers_that_were_not_announced_are_passed_over() -> None:
    assert lines([received(0, 5), STARTED, LayerProgress(REF, digest("9"), 5, 10)]) == [
        "app:1: fetching 2 of 3 layers, 4.0 MiB"
    ]


def test_a_layer_that_is_said_to_be_empty_is_no_bug_of_ours() -> None:
    empty = LayerPlan(digest("a"), 0, present=False)
    started = FetchStarted(REF, digest("f"), (empty,))
    assert lines([started, 6.0, LayerProgress(REF, empty.digest, 0, 0)]) == [
        "app:1: fetching 1 of 1 layers, 0 B",
        "app:1: 0 % of 0 B (0 B/s)",
    ]


def test_what_holds_a_pull_up_is_said() -> None:
    assert lines(
        [
            Waiting(REF, "blob x", "process 12 (pull app:1)", None),
            Waiting("", "the index", "process 13 (gc)\n", NOON),
            Retrying(REF, 2, 0.5, "registry.example.com\nclosed"),
            Notice(REF, "layer \x1b is missing"),
        ]
    ) == [
        "app:1: waiting for blob x, which process 12 (pull app:1) has locked",
        f"waiting for the index, which process 13 (gc)\\n has locked since {NOON.astimezone():%H:%M:%S}",
        "app:1: registry.example.com\\nclosed; trying again in 0.50 s, attempt 2",
        "micropod-img: warning: layer \\x1b is missing",
    ]


def test_failures_are_left_to_the_end() -> None:
    assert lines([Failed(REF, "gone")]) == []


def test_warnings_are_nothing_but_warnings() -> None:
    written: list[str] = []
    sink = Warnings(written.append, Style())
    for event in (Resolving(REF, "x"), STARTED, Notice(REF, "look out"), Failed(REF, "gone")):
        sink(event)
    assert written == ["micropod-img: warning: look out"]


def test_for_whom_is_waited_is_said_to_who_wants_no_progress_too() -> None:
    written: list[str] = []
    Warnings(written.append, Style())(Waiting("", "the index", "process 13 (gc)", None))
    assert written == ["waiting for the index, which process 13 (gc) has locked"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Resolving(REF, "e.com"), {"event": "resolving", "ref": REF, "endpoint": "e.com"}),
        (
            FetchStarted(REF, digest("f"), PLAN[1:]),
            {
                "event": "fetch-started",
                "ref": REF,
                "digest": digest("f"),
                "layers": [
                    {"digest": digest("b"), "size": MIB, "present": False},
                    {"digest": digest("c"), "size": 5 * MIB, "present": True},
                ],
            },
        ),
        (
            received(0, 7),
            {"event": "layer-progress", "ref": REF, "digest": digest("a"), "received": 7, "size": 3 * MIB},
        ),
        (
            Waiting(REF, "s", "h", NOON),
            {"event": "waiting", "ref": REF, "subject": "s", "holder": "h", "since": "2024-02-29T12:30:15+00:00"},
        ),
        (
            Waiting("", "s", "h", None),
            {"event": "waiting", "ref": "", "subject": "s", "holder": "h", "since": None},
        ),
        (Retrying(REF, 2, 0.5, "r"), {"event": "retrying", "ref": REF, "attempt": 2, "delay": 0.5, "reason": "r"}),
        (Notice(REF, "m"), {"event": "notice", "ref": REF, "message": "m"}),
        (
            Finished(REF, digest("f"), fetched=True, downloaded_bytes=1, reused_bytes=2),
            {
                "event": "finished",
                "ref": REF,
                "digest": digest("f"),
                "fetched": True,
                "downloaded_bytes": 1,
                "reused_bytes": 2,
            },
        ),
        (Failed(REF, "m"), {"event": "failed", "ref": REF, "message": "m"}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)
def test_each_event_is_a_json_line_of_this_shape(event: Event, expected: dict[str, object]) -> None:
    written: list[str] = []
    JsonLines(written.append)(event)
    (line,) = written
    assert "\n" not in line
    assert json.loads(line) == {"schema": 1, **expected}


def test_an_error_is_a_json_line_too() -> None:
    error = RateLimitedError("too many", endpoint="e.com", retryable=True)
    assert json.loads(error_line(error)) == {
        "schema": 1,
        "event": "error",
        "error": {
            "code": "rate-limited",
            "message": "too many",
            "hint": None,
            "stage": None,
            "endpoint": "e.com",
            "retryable": True,
            "exit_status": 6,
            "detail": None,
        },
    }


def test_json_lines_are_no_flood_and_never_leave_out_the_last() -> None:
    clock, written = Clock(), list[str]()
    sink = JsonLines(written.append, clock=clock)
    for tick in range(100):
        sink(received(0, tick))
        sink(received(1, tick))
        clock.now += 0.01
    sink(received(0, 3 * MIB))
    assert [json.loads(line)["received"] for line in written] == [0, 0, 50, 50, 3 * MIB]
    written.clear()
    for tick in range(100):
        sink(PushProgress(REF, tick, MIB))
        clock.now += 0.01
    sink(PushProgress(REF, MIB, MIB))
    assert [json.loads(line)["done"] for line in written] == [0, 50, MIB]


class Screen(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        """Say that it is one."""
        return True


def drawn(events: Sequence[Event | float], monkeypatch: pytest.MonkeyPatch, *, height: int = 30) -> str:
    """Return what is on the screen after some events; numbers are seconds that pass."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", str(height))
    clock = Clock()
    bars = Bars(Screen(), colour=False, clock=clock)
    for event in events:
        if isinstance(event, float):
            clock.now += event
        else:
            bars(event)
    paper = Console(file=io.StringIO(), width=100)
    with paper.capture() as captured:
        paper.print(bars._bars.get_renderable())
    bars.close()
    return captured.get()


def test_bars_are_for_the_whole_and_for_each_layer_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = drawn([STARTED, received(0, MIB)], monkeypatch)
    assert "app:1" in screen
    assert "1.0 of 4.0 MiB" in screen
    assert "1.0 of 3.0 MiB" in screen
    assert "b00000000000" not in screen


def test_bars_say_how_fast_it_goes_and_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = drawn([STARTED, received(0, 100), 1.0, received(0, MIB), 1.0, received(0, 2 * MIB)], monkeypatch)
    whole, layer = screen.splitlines()
    assert whole.split()[-2:] == ["MiB/s", "00:02"]
    assert layer.split()[-3:] == ["1.0", "MiB/s", "00:02"]


def test_bars_guess_no_speed_from_the_first_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = drawn([STARTED, 0.01, received(0, 2 * MIB), 0.01, received(1, MIB)], monkeypatch)
    assert "/s" not in screen
    assert screen.count("--:--") == 3


def test_the_speed_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [event for tick in range(1, 200) for event in (0.5, received(0, tick * 1024))]
    fast = [event for tick in range(1, 31) for event in (0.5, received(0, 200 * 1024 + tick * 50 * 1024))]
    assert " 100.0 KiB/s" in drawn([STARTED, *slow, *fast], monkeypatch).splitlines()[1]


def test_a_long_time_is_told_in_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert " 2:16:" in drawn([STARTED, received(1, 0), 1.0, received(1, 128)], monkeypatch).splitlines()[1]


def test_bars_of_an_image_that_is_done_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Finished(REF, digest("f"), fetched=True, downloaded_bytes=1, reused_bytes=2)
    for last in (done, Failed(REF, "gone")):
        assert "app:1" not in drawn([STARTED, received(0, MIB), last], monkeypatch)


def test_a_bar_says_how_much_of_the_blobs_is_read_until_all_is(monkeypatch: pytest.MonkeyPatch) -> None:
    reading: list[Event | float] = [
        VerifyStarted(12, 4 * MIB),
        VerifyProgress(100, 4 * MIB),
        1.0,
        VerifyProgress(MIB, 4 * MIB),
    ]
    screen = drawn(reading, monkeypatch)
    assert "reading 12 blobs" in screen
    assert "1.0 of 4.0 MiB" in screen
    assert "MiB/s" in screen
    assert "reading" not in drawn([*reading, VerifyProgress(4 * MIB, 4 * MIB)], monkeypatch)


def test_lines_say_now_and_then_how_much_of_the_blobs_is_read() -> None:
    reading: list[Event | float] = [
        VerifyStarted(1, 4 * MIB),
        VerifyProgress(1, 4 * MIB),
        6.0,
        VerifyProgress(MIB, 4 * MIB),
    ]
    assert lines([*reading, VerifyProgress(2 * MIB, 4 * MIB), 6.0, VerifyProgress(4 * MIB, 4 * MIB)]) == [
        "reading 1 blob, 4.0 MiB",
        "25 % of 4.0 MiB",
    ]


def test_events_of_nothing_that_is_drawn_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = FetchStarted(REF, digest("f"), PLAN[2:])
    assert "app:1" not in drawn([nothing, received(0, 1), Failed(REF, "gone"), Resolving(REF, "x")], monkeypatch)


def test_layers_that_are_done_make_room_on_a_low_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tuple(LayerPlan(digest(f"a{number}"), MIB, present=False) for number in range(9))
    events = [LayerProgress(REF, layer.digest, MIB, MIB) for layer in plan[:-1]]
    events.append(LayerProgress(REF, plan[-1].digest, 1, MIB))
    screen = drawn([FetchStarted(REF, digest("f"), plan), *events], monkeypatch, height=8)
    assert "app:1" in screen
    assert "a80000000000" in screen
    assert "a00000000000" not in screen


def test_lines_are_written_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    bars = Bars(screen, colour=False)
    bars(STARTED)
    bars.say("app:1: waiting for [bold] process 12 whose name is longer than the terminal is wide")
    bars.close()
    assert "app:1: waiting for [bold] process 12 whose name is longer than the terminal is wide\n" in screen.getvalue()
