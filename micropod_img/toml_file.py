"""TOML files of people: read whole, each value checked on the way out, each complaint with file and line.

tomllib is imported only once a file is there to parse; looking for files that do not exist costs a few system calls.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeGuard

from micropod_img.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

# Where the parser says where it stopped, and how a line opens a table or sets a key. re compiles each at its first use.
_POSITION: Final = r"(.*) \(at (?:line (\d+), column \d+|end of document)\)"
_HEADER: Final = r"\s*(\[\[|\[)([^\[\]]+)\]"
_ASSIGNMENT: Final = r"""\s*("[^"]*"|'[^']*'|[A-Za-z0-9_-]+)\s*="""


@dataclass(frozen=True, slots=True)
class TomlTable:
    """One table of a TOML file, which is itself the outermost.

    Attributes:
        path: The file.
        text: All of the file, for line numbers.
        location: Where this table is in it: keys, and positions in arrays of tables.
        values: What it holds.
    """

    path: Path
    text: str
    location: tuple[str | int, ...]
    values: Mapping[str, object]

    def string(self, key: str) -> str | None:
        """Return a string, or None where the key is absent."""
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.error(key, f"{key} must be a string")

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return a boolean."""
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        raise self.error(key, f"{key} must be true or false, without quotes")

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Return an array of strings, or None where the key is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if _is_list(value):
            strings = tuple(item for item in value if isinstance(item, str))
            if len(strings) == len(value):
                return strings
        raise self.error(key, f"{key} must be a list of strings")

    def table(self, key: str) -> TomlTable | None:
        """Return a table, or None where the key is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not _is_mapping(value):
            raise self.error(key, f"{key} must be a table, [{key}]")
        return TomlTable(self.path, self.text, (*self.location, key), value)

    def tables(self, key: str) -> tuple[TomlTable, ...]:
        """Return an array of tables, empty where the key is absent."""
        value = self.values.get(key, [])
        if _is_list(value):
            contents = tuple(item for item in value if _is_mapping(item))
            if len(contents) == len(value):
                places = ((*self.location, key, position) for position in range(len(contents)))
                return tuple(TomlTable(self.path, self.text, *pair) for pair in zip(places, contents, strict=True))
        raise self.error(key, f"{key} must be an array of tables, [[{key}]]")

    def unknown(self, known: Collection[str]) -> Iterator[tuple[str, str | None]]:
        """Yield each key that is not known here, with the known key that it resembles most, if it does."""
        for key in self.values:
            if key not in known:
                import difflib  # noqa: PLC0415 - needed only where somebody mistyped

                nearest = difflib.get_close_matches(key.lower().replace("_", "-"), known, n=1)
                yield key, nearest[0] if nearest else None

    def where(self, key: str | None = None) -> str:
        """Name the file and, where it can be told, the line of a key of this table, or of the table."""
        line = self._line(key)
        return f"{self.path}, line {line}" if line else str(self.path)

    def error(self, key: str | None, problem: str, *, hint: str | None = None) -> UsageError:
        """Return, for the caller to raise, the error about a key of this table, or about the table."""
        return UsageError(f"{self.where(key)}: {problem}", code="config", hint=hint)

    def _line(self, key: str | None) -> int | None:
        """Find a line again that tomllib parsed without saying where, reading as much TOML as that takes.

        Inline tables and multi-line strings can hide it; then the line of what encloses it has to do, or none.
        """
        wanted = self.location if key is None else (*self.location, key)
        current: tuple[str | int, ...] = ()
        best_depth, best_line = 0, None
        arrays: dict[tuple[str | int, ...], int] = {}
        for number, line in enumerate(self.text.splitlines(), start=1):
            if header := re.match(_HEADER, line):
                current = _opened(header[2], arrays, is_array=header[1] == "[[")
                candidate = current
            elif assignment := re.match(_ASSIGNMENT, line):
                candidate = (*current, assignment[1].strip("\"'"))
            else:
                continue
            depth = min(len(candidate), len(wanted))
            if candidate[:depth] == wanted[:depth] and depth > best_depth:
                best_depth, best_line = depth, number
        return best_line


def read_toml(path: Path) -> TomlTable | None:
    """Read a TOML file.

    Args:
        path: The file.

    Returns:
        Its outermost table; None if there is no such file.

    Raises:
        UsageError: It cannot be read, or is not TOML.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {os.strerror(error.errno or 0)}", code="config") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: not UTF-8", code="config", hint="TOML files are UTF-8") from error
    import tomllib  # noqa: PLC0415 - costs milliseconds that a machine without such files need not spend

    try:
        return TomlTable(path, text, (), tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        raise _syntax_error(path, text, error) from error


def _syntax_error(path: Path, text: str, error: Exception) -> UsageError:
    if position := re.fullmatch(_POSITION, str(error), re.DOTALL):
        line = position[2] or text.rstrip("\n").count("\n") + 1
        return UsageError(f"{path}, line {line}: {position[1]}", code="config", hint="the file must be TOML 1.0")
    return UsageError(f"{path}: not TOML: {error}", code="config", hint="the file must be TOML 1.0")


def _opened(name: str, arrays: dict[tuple[str | int, ...], int], *, is_array: bool) -> tuple[str | int, ...]:
    """Return the location that a table header opens, and count it in ``arrays`` if it is an array's."""
    location: tuple[str | int, ...] = ()
    parts = [part.strip().strip("\"'") for part in name.split(".")]
    for number, part in enumerate(parts, start=1):
        location = (*location, part)
        if is_array and number == len(parts):
            arrays[location] = arrays.get(location, -1) + 1
        if location in arrays:
            location = (*location, arrays[location])
    return location


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _is_mapping(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)
