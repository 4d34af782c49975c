from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img.render.text import age, counted, one_line, part_of, printable, seconds, short_digest, size, timestamp

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("größe 容器", "größe 容器"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31mred", "\\x9b31mred"),
        ("bell\x07", "bell\\x07"),
        ("a\rb", "a\\rb"),
        ("\x7f", "\\x7f"),
        ("evil\u202egpj", "evil\\u202egpj"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\ud800", "\\ud800"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_line_feeds_and_tabs_are_escaped_where_there_is_one_line() -> None:
    assert one_line("two\nlines\tand a tab") == "two\\nlines\\tand a tab"


@given(st.text())
def test_nothing_gets_through(text: str) -> None:
    assert one_line(text).isprintable()
    assert printable(text).replace("\n", "").replace("\t", "").isprintable()


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**2, "1.0 MiB"),
        (335 * 1024**2, "335.0 MiB"),
        (1024**3, "1.0 GiB"),
        (1024**4, "1.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_a_size_is_in_binary_units(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("count", "whole", "shown"),
    [
        (0, 0, "0 of 0 B"),
        (12, 300, "12 of 300 B"),
        (0, 3 << 20, "0.0 of 3.0 MiB"),
        (1 << 20, 3 << 30, "0.0 of 3.0 GiB"),
    ],
)
def test_a_part_is_in_the_unit_of_the_whole(count: int, whole: int, shown: str) -> None:
    assert part_of(count, whole) == shown


def test_what_is_counted_is_one_or_several() -> None:
    assert [counted(number, "blob") for number in range(3)] == ["0 blobs", "1 blob", "2 blobs"]
    assert counted(2, "entry", "entries") == "2 entries"


def test_a_short_digest_is_its_first_digits() -> None:
    assert short_digest(f"sha256:{'0123456789abcdef' * 4}") == "0123456789ab"


@pytest.mark.parametrize(
    ("taken", "shown"),
    [
        (0, "0.00 s"),
        (0.344, "0.34 s"),
        (12.34, "12.3 s"),
        (60, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3600, "60 min 00 s"),
    ],
)
def test_a_duration_has_three_digits_or_minutes(taken: float, shown: str) -> None:
    assert seconds(taken) == shown


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (timedelta(0), "moments"),
        (timedelta(seconds=-5), "moments"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(seconds=59), "59 seconds"),
        (timedelta(minutes=1, seconds=59), "1 minute"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(hours=47), "1 day"),
        (timedelta(days=13), "13 days"),
        (timedelta(days=14), "2 weeks"),
        (timedelta(days=59), "8 weeks"),
        (timedelta(days=60), "2 months"),
        (timedelta(days=729), "24 months"),
        (timedelta(days=730), "2 years"),
    ],
)
def test_an_age_is_rough(passed: timedelta, shown: str) -> None:
    assert age(NOW - passed, NOW) == shown


@pytest.mark.parametrize("moment", [None, datetime(1, 1, 1), datetime(1, 1, 1, tzinfo=UTC)])  # noqa: DTZ001
def test_an_age_that_nobody_knows_is_a_dash(moment: datetime | None) -> None:
    assert age(moment, NOW) == "-"


EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        (None, None),
        (datetime(2024, 2, 29, 12, 0, 0, 999_999, tzinfo=UTC), "2024-02-29T12:00:00Z"),
        (datetime(2024, 2, 29, 12, tzinfo=EAST), "2024-02-29T10:00:00Z"),
        (datetime(2024, 2, 29, 12), "2024-02-29T12:00:00Z"),  # noqa: DTZ001
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
        (datetime(1, 1, 1, tzinfo=EAST), "0001-01-01T00:00:00Z"),
    ],
)
def test_a_timestamp_is_rfc_3339_in_utc(moment: datetime | None, shown: str | None) -> None:
    assert timestamp(moment) == shown
