"""docs/security.md keeps its word: each test that it names exists, and its limits are those of the program."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from micropod_img.limits import LIMIT_NAMES, MOST_LAYERS, Limits, written_name
from micropod_img.pull import resolve

CHECKOUT = Path(__file__).parent.parent
PAGE = (CHECKOUT / "docs/security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)+)`", PAGE)))
GIB = 1 << 30


@cache
def _tests_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + one.name for one in inner if isinstance(one, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("named", NAMED)
def test_each_test_that_the_page_names_exists(named: str) -> None:
    path, _, test = named.partition("::")
    assert test in _tests_of(CHECKOUT / path)


def test_the_page_names_many_tests_and_each_row_of_its_tables_has_one() -> None:
    assert len(NAMED) > 30
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\|[-|]+$", line)]
    without = [row for row in rows if "`tests/" not in row]
    heads = [row for row in without if row.split("|")[1].strip() in ("promise", "option", "CVE")]
    limits = [row for row in without if row.startswith("| `--max-")]
    assert without == [row for row in without if row in heads or row in limits]


def test_the_limits_of_the_page_are_those_of_the_program() -> None:
    limits = Limits()
    shown = {
        "max_size": f"{limits.max_size // GIB} GiB",
        "max_entries": f"{limits.max_entries:,}",
        "max_file_size": f"{limits.max_file_size // GIB} GiB",
        "max_depth": str(limits.max_depth),
        "max_ratio": str(limits.max_ratio),
    }
    assert set(shown) == set(LIMIT_NAMES)
    for name, value in shown.items():
        assert f"| `--{written_name(name)}` | {value} |" in PAGE
    assert f"{MOST_LAYERS} layers" in PAGE
    assert f"and of {resolve._MOST_DOCUMENTS} documents" in PAGE


def test_no_module_extracts_archives() -> None:
    for path in (CHECKOUT / "micropod_img").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if path.name != "sample_image.py":  # which makes one
            assert not re.search(r"^\s*(import|from) (tarfile|zipfile)\b", source, re.MULTILINE), path
        assert not re.search(r"\.extract(all|file)?\(|unpack_archive", source), path
