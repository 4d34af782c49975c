"""Ids that the administrator lets a user have in user namespaces (subuid(5), subgid(5))."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class IdRange:
    """So many ids from the first one on."""

    first: int
    count: int


def subordinate_ids(
    file: Literal["subuid", "subgid"], uid: int, *, directory: Path = Path("/etc")
) -> tuple[IdRange, ...]:
    """Return the ranges of a user, in the order of the file.

    Args:
        file: User or group ids.
        uid: The user; lines may name it by number or by name.
        directory: Where the file is.

    Returns:
        The ranges; none where there is no file, or nothing in it for the user.
    """
    try:
        content = (directory / file).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ()
    return tuple(_ranges(content, {str(uid), *_names(uid)}))


def _ranges(content: str, owners: set[str]) -> Iterator[IdRange]:
    for line in content.splitlines():
        owner, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if owner in owners and first.isdecimal() and count.isdecimal() and int(count) > 0:
            yield IdRange(int(first), int(count))


def _names(uid: int) -> set[str]:
    try:
        return {pwd.getpwuid(uid).pw_name}
    except KeyError:
        return set()
