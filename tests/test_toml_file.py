from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import UsageError
from micropod_img.toml_file import TomlTable, read_toml

if TYPE_CHECKING:
    from pathlib import Path


def read(tmp_path: Path, text: str) -> TomlTable:
    path = tmp_path / "file.toml"
    path.write_text(text)
    table = read_toml(path)
    assert table is not None
    return table


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_toml(tmp_path / "missing.toml") is None
    assert read_toml(tmp_path / "file" / "below.toml") is None


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot read {tmp_path}: Is a directory"):
        read_toml(tmp_path)


NESTED = """\
# top = 0
top = 1

[[fruit]]
name = "apple"     # [[fruit]]
[[fruit.variety]]
name = "red"
[[fruit.variety]]
'name' = "green"

[[ fruit ]]
name = "pear"
[[fruit.variety]]
"name" = "long"
[other.inner]
x = 1
"""


@pytest.mark.parametrize(
    ("location", "key", "line"),
    [
        ((), "top", 2),
        ((), "fruit", 4),
        ((), None, None),
        (("fruit", 0), None, 4),
        (("fruit", 0), "name", 5),
        (("fruit", 0), "missing", 4),
        (("fruit", 0, "variety", 0), "name", 7),
        (("fruit", 0, "variety", 1), "name", 9),
        (("fruit", 0, "variety", 1), None, 8),
        (("fruit", 1), "name", 12),
        (("fruit", 1, "variety", 0), "name", 14),
        (("other", "inner"), "x", 16),
        (("other",), None, 15),
    ],
)
def test_the_line_of_a_key_is_found_again(
    tmp_path: Path, location: tuple[str | int, ...], key: str | None, line: int | None
) -> None:
    file = read(tmp_path, NESTED)
    where = TomlTable(file.path, file.text, location, {}).where(key)
    assert where == (f"{file.path}, line {line}" if line else str(file.path))


def test_tables_know_where_they_are(tmp_path: Path) -> None:
    apple, pear = read(tmp_path, NESTED).tables("fruit")
    assert (apple.string("name"), pear.string("name")) == ("apple", "pear")
    assert [variety.where("name") for variety in apple.tables("variety")] == [
        f"{tmp_path / 'file.toml'}, line 7",
        f"{tmp_path / 'file.toml'}, line 9",
    ]


def test_absent_values_are_none_or_empty(tmp_path: Path) -> None:
    empty = read(tmp_path, "")
    assert (empty.string("x"), empty.strings("x"), empty.table("x")) == (None, None, None)
    assert (empty.boolean("x"), empty.boolean("x", default=True), empty.tables("x")) == (False, True, ())


def test_values_of_another_type_are_refused(tmp_path: Path) -> None:
    table = read(tmp_path, "x = [1, 'a', {}]")
    for reader in (table.string, table.boolean, table.strings, table.table, table.tables):
        with pytest.raises(UsageError, match="line 1: x must be "):
            reader("x")
