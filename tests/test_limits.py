from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img.limits import LIMIT_NAMES, InvalidLimitError, Limits, written_name


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1500000", 1_500_000),
        ("512B", 512),
        ("4k", 4096),
        ("2G", 2 << 30),
        ("2g", 2 << 30),
        ("512MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("10MB", 10_000_000),
        ("1.5G", 3 << 29),
        ("0.5k", 512),
        ("1T", 1 << 40),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(text: str, size: int) -> None:
    assert Limits().changed({"max_size": text, "max_file_size": text}) == Limits(max_size=size, max_file_size=size)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0G",
        "0.0001k",
        "-1",
        "1.5",
        "1.5B",
        "1iB",
        "G",
        "1 0",
        "1P",
        "1e9",
        "1_0",
        "\u0661",
        "1G\n",
        "9" * 30,
        "9" * 19,
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidLimitError, match="is not a size") as caught:
        Limits().changed({"max_size": text})
    assert (caught.value.name, caught.value.hint) == ("max-size", "write 2G, 512MiB or 1500000")


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "1k", "\u0661", " 1", "1\n", "9" * 19])
@pytest.mark.parametrize("name", ["max_entries", "max_depth", "max_ratio"])
def test_what_is_no_number_above_0_is_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidLimitError, match="is not a whole number above 0"):
        Limits().changed({name: text})


@given(st.sampled_from(LIMIT_NAMES), st.text())
def test_whatever_is_written_is_a_limit_above_0_or_refused(name: str, text: str) -> None:
    try:
        changed = Limits().changed({name: text})
    except InvalidLimitError:
        return
    assert 0 < getattr(changed, name) < 1 << 63


def test_only_what_is_written_changes() -> None:
    assert Limits(max_depth=7).changed({}) == Limits(max_depth=7)
    assert Limits(max_depth=7).changed({"max_ratio": "9"}) == Limits(max_depth=7, max_ratio=9)


def test_every_field_that_users_set_is_named() -> None:
    fields = [field.name for field in dataclasses.fields(Limits) if field.name.startswith("max_")]
    assert sorted(fields) == sorted(LIMIT_NAMES)
    assert [written_name(name) for name in LIMIT_NAMES[:2]] == ["max-size", "max-entries"]
