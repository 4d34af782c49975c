"""What a section of the soak is told, and what it says in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a section shall do.

    Attributes:
        short: Whether a sample of all that it could try will do: a few seconds of it, for the test suite.
        seconds: For sections that go on for as long as they are let.
        directory: An empty directory for whatever the section needs; the caller removes it.
    """

    short: bool
    seconds: float
    directory: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a section did.

    Attributes:
        name: What it tried, in the plural: "kill points".
        tried: How many.
        lost: A line for each promise that was broken; empty if all were kept.
        figures: More to tell, in the order of the table.
    """

    name: str
    tried: int
    lost: tuple[str, ...] = ()
    figures: Mapping[str, str] = field(default_factory=dict)
