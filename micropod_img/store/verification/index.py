"""What is wrong with ``index.json`` itself: its text, its entries, and the names on them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from micropod_img.digest import parse_digest
from micropod_img.errors import IntegrityError, InvalidReference, UsageError
from micropod_img.platforms import normalize
from micropod_img.problems import Problem
from micropod_img.reference import Reference
from micropod_img.store.documents import Members, corrupt, members_of
from micropod_img.store.index import INDEX_DIGEST, PULLED_AT, REF_NAME, REFERENCE, Entry, parse_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from micropod_img.platforms import Platform


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """As much of an index as could be read.

    Attributes:
        entries: Those of its entries that are descriptors.
        members: Its other members.
        problems: Why it is not all of them.
    """

    entries: tuple[Entry, ...]
    members: Mapping[str, object]
    problems: tuple[Problem, ...]


def read_index(content: bytes | None, path: Path) -> ReadIndex:
    """Read the entries of an index one by one.

    Args:
        content: The file's content; None if there is no file.
        path: Its path.
    """
    if content is None:
        what = "is missing, and with it which images there are"
        return ReadIndex((), {}, (Problem("missing-index", f"{path} {what}", str(path)),))
    try:
        members = members_of(content, str(path))
        if "manifests" not in members.mapping:
            raise corrupt(str(path), "it lists nothing, not even nothing")
        items = members.items("manifests")
    except IntegrityError as error:
        message = f"{path} is empty" if not content.strip(b"\0") else error.message
        return ReadIndex((), {}, (Problem("corrupt-index", message, str(path)),))
    entries: list[Entry] = []
    problems: list[Problem] = []
    for number, item in enumerate(items):
        try:
            entries.append(parse_entry(Members(item, f"entry {number} of {path}")))
        except IntegrityError as error:
            problems.append(Problem("corrupt-entry", error.message, str(path), images=_names_of(item)))
    return ReadIndex(tuple(entries), members.mapping, tuple(problems))


def label(entry: Entry) -> str:
    """Return what to call an image in problems: its reference, another tool's name for it, or its digest."""
    return entry.reference or entry.annotations.get(REF_NAME) or entry.digest


def entry_problems(
    entries: Sequence[Entry], path: Path, platform_of: Callable[[Entry], Platform | None]
) -> Iterator[Problem]:
    """Yield what is wrong with entries that can be read, without a look at their images.

    Args:
        entries: Those of the index.
        path: The index.
        platform_of: Returns what an entry's image runs on, or None if nobody knows.
    """
    for entry in entries:
        yield from (
            Problem("entry-annotation", f"{label(entry)}: {what}", str(path), images=(label(entry),))
            for what in _wrong_annotations(entry)
        )
    yield from _duplicates(entries, path, platform_of)
    yield from _names(entries, path)


def duplicate_keys(
    entries: Sequence[Entry], platform_of: Callable[[Entry], Platform | None]
) -> dict[tuple[str, str], list[Entry]]:
    """Return the entries that stand in for one another: the same name for the same platform, or no name and one image.

    An entry of a whole index is for every platform of its name.
    """
    whole = {_name(entry) for entry in entries if entry.is_index and _name(entry)}
    found: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        name = _name(entry)
        if name in whole:
            key = "all platforms"
        elif name:
            platform = platform_of(entry)
            key = str(normalize(platform)) if platform else entry.digest
        else:
            key = entry.digest
        found[name, key].append(entry)
    return {key: group for key, group in found.items() if len(group) > 1}


def _duplicates(
    entries: Sequence[Entry], path: Path, platform_of: Callable[[Entry], Platform | None]
) -> Iterator[Problem]:
    for (name, platform), group in duplicate_keys(entries, platform_of).items():
        images = (name or group[0].digest,)
        what = f"{images[0]} is listed {len(group)} times" + (f" for {platform}" if name else "")
        yield Problem("duplicate-entry", what, str(path), images=images)


def _names(entries: Sequence[Entry], path: Path) -> Iterator[Problem]:
    for entry in entries:
        own, given = entry.annotations.get(REFERENCE), entry.annotations.get(REF_NAME)
        if own is not None and given not in (None, own):
            what = f"the entry of {own} is called {given} to other tools"
            yield Problem("ref-name", what, str(path), images=(own,))
    for name in dict.fromkeys(filter(None, map(_name, entries))):
        group = [entry for entry in entries if _name(entry) == name]
        bearers = [entry for entry in group if entry.annotations.get(REF_NAME) == name]
        if len(bearers) > 1 and len({entry.digest for entry in bearers}) > 1:
            what = f"{name} is the name of {len(bearers)} entries, and other tools call that ambiguous"
            yield Problem("ref-name", what, str(path), images=(name,))
        elif not bearers:
            yield Problem("ref-name", f"{name} is known to no other tool", str(path), images=(name,))


def _wrong_annotations(entry: Entry) -> Iterator[str]:
    reference = entry.annotations.get(REFERENCE)
    if reference is not None:
        try:
            canonical = str(Reference.parse(reference))
        except InvalidReference:
            canonical = ""
        if canonical != reference:
            yield f"its annotation {REFERENCE} is no canonical reference"
    try:
        parse_digest(entry.annotations.get(INDEX_DIGEST, entry.digest))
    except UsageError:
        yield f"its annotation {INDEX_DIGEST} is no digest"
    if not is_time(entry.pulled_at):
        yield f"its annotation {PULLED_AT} is no time"


def is_time(text: str) -> bool:
    """Whether an annotation says when something was, or nothing at all."""
    try:
        return not text or bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def _name(entry: Entry) -> str:
    return entry.annotations.get(REFERENCE) or entry.annotations.get(REF_NAME) or ""


def _names_of(item: object) -> tuple[str, ...]:
    annotations = item.get("annotations") if isinstance(item, dict) else None
    if not isinstance(annotations, dict):
        return ()
    names = (annotations.get(REFERENCE), annotations.get(REF_NAME))
    return tuple(name for name in names if isinstance(name, str))[:1]
