"""What a layer's names tell: whether it has the same files apart from its parents."""

from __future__ import annotations

import pytest

from micropod_img.rootfs import footprint
from micropod_img.rootfs.footprint import Footprint
from micropod_img.rootfs.tar_headers import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Entry

PLAIN: dict[str, list[tuple[str, bytes]]] = {
    "nothing": [],
    "files": [("a/b", REGULAR), ("a/c", SYMLINK), ("d", HARD_LINK)],
    "directories and what is in them": [("a/", DIRECTORY), ("./a/b", REGULAR), ("a/c/", DIRECTORY), ("a/c/d", REGULAR)],
    "a directory that is listed after what is in it": [("a/b/c", REGULAR), ("a/b/", DIRECTORY), ("a", DIRECTORY)],
    "the same file twice": [("a", REGULAR), ("./a", SYMLINK)],
    "the root": [("./", DIRECTORY), ("/a", REGULAR)],
    "names that begin alike": [("a", REGULAR), ("ab/c", REGULAR), ("a.b/", DIRECTORY)],
}
DEPENDENT: dict[str, list[tuple[str, bytes]]] = {
    "a whiteout": [("a/.wh.b", REGULAR)],
    "a file where a directory is listed": [("a/", DIRECTORY), ("a", REGULAR)],
    "a directory where a file was": [("a", REGULAR), ("./a/", DIRECTORY)],
    "a link where it went through a directory": [("a/b/c", REGULAR), ("a/b", SYMLINK)],
    "a file behind a link": [("a", SYMLINK), ("a/b", REGULAR)],
    "a file far behind a link": [("a/b", SYMLINK), ("a/b/c/d", REGULAR)],
    "a directory behind a link": [("/a", SYMLINK), ("a//b/", DIRECTORY)],
}


def noted(entries: list[tuple[str, bytes]]) -> tuple[Footprint, list[int]]:
    """Return a footprint, and after how many entries it was told that parents are needed."""
    told: list[int] = []
    seen = 0
    made = Footprint(lambda: told.append(seen))
    for name, kind in entries:
        seen += 1
        is_whiteout = name.rpartition("/")[2].startswith(".wh.")
        made.note(Entry(name.encode(), kind, 0, b"", 0, (0, 0), {}, 0), is_whiteout=is_whiteout)
    return made, told


@pytest.mark.parametrize("case", PLAIN)
def test_a_layer_that_adds_and_replaces_needs_no_parents(case: str) -> None:
    made, told = noted(PLAIN[case])
    assert not made.needs_parents
    assert told == []


@pytest.mark.parametrize("case", DEPENDENT)
def test_a_layer_that_takes_away_or_changes_its_mind_needs_its_parents_and_says_so_once(case: str) -> None:
    entries = DEPENDENT[case]
    made, told = noted([*entries, *entries])
    assert made.needs_parents
    assert told == [len(entries)]


def test_directories_have_their_shortest_names() -> None:
    made, _ = noted([("./", DIRECTORY), ("/a//b/", DIRECTORY), ("./c/.", DIRECTORY), ("d/e", REGULAR)])
    assert made.directories == {b"a/b", b"c"}


def test_a_layer_of_too_many_names_is_taken_for_one_that_needs_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "_MOST_NAMES", 5)
    made, told = noted([(f"a/{number}", REGULAR) for number in range(9)])
    assert made.needs_parents
    assert told == [5]
