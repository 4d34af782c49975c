from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img.cli.values import choice, count, duration
from micropod_img.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("2h0m1s", 7201),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (None, None),
    ],
)
def test_a_duration_is_seconds_or_numbers_with_units(text: str | None, seconds: float | None) -> None:
    assert duration(text, "--timeout") == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-1", "5 m", "m", "5x", "1e3", "inf", "nan", "\u0663", "5m\n", "9" * 20]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--timeout: .* is not a duration"):
        duration(text, "--timeout")


@given(st.text())
def test_no_text_crashes_the_reading_of_durations(text: str) -> None:
    try:
        seconds = duration(text, "--timeout")
    except UsageError:
        return
    assert seconds is not None
    assert seconds > 0


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("4", 4), ("007", 7), (None, None)])
def test_a_number_is_a_whole_one_above_0(text: str | None, number: int | None) -> None:
    assert count(text, "--jobs") == number


@pytest.mark.parametrize("text", ["", "0", "00", "-1", "1.0", "two", "\u0661", "1 ", "9999999"])
def test_what_is_no_number_above_0_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--jobs: .* is not a number above 0"):
        count(text, "--jobs")


def test_a_choice_is_one_of_its_words() -> None:
    assert choice("b", "--letter", ("a", "b")) == "b"


def test_another_word_is_refused_with_the_words_that_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        choice("A", "--letter", ("a", "b"))
    assert caught.value.hint == "choose one of a, b"
