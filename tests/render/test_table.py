from __future__ import annotations

from micropod_img.render.style import Style
from micropod_img.render.table import pairs, table


def test_columns_are_as_wide_as_their_cells_and_numbers_are_on_the_right() -> None:
    drawn = table(
        ("NAME", "SIZE", "LAST"), [("a", "1.0 MiB", "x"), ("longer", "2 B", "y")], style=Style(), right={"SIZE"}
    )
    assert drawn.splitlines() == [
        "NAME       SIZE  LAST",
        "a       1.0 MiB  x",
        "longer      2 B  y",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("NAME", "SIZE"), [], style=Style()) == "NAME  SIZE"


def test_cells_are_made_harmless() -> None:
    drawn = table(("NAME",), [("\x1b]0;title\x07\nnext",)], style=Style())
    assert drawn.splitlines() == ["NAME", "\\x1b]0;title\\x07\\nnext"]


def test_the_header_stands_out_where_there_are_colours() -> None:
    assert table(("NAME",), [("a",)], style=Style(colour=True)) == "\x1b[1mNAME\x1b[0m\na"


def test_pairs_are_aligned_and_made_harmless() -> None:
    assert pairs([("Name", "a\x1b"), ("Platform", "b")], style=Style()) == "Name      a\\x1b\nPlatform  b"
