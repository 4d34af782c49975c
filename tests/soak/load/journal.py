"""What the workers of the load wrote down: one line of JSON for each thing that one of them did."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path
    from typing import TextIO

LOST = "LOST"
"""How the outcome of an operation begins that broke a promise."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was done.

    Attributes:
        operation: What.
        outcome: ``ok``, the code of an error that is no surprise, or `LOST` and why.
        began: When, in seconds of the machine's clock.
        seconds: How long it took.
        waited: Longest wait of this worker for the index so far, in seconds.
        held: Longest time for which it held the index so far, in seconds.
        tags: What it tagged, the oldest first, and has not removed.
    """

    operation: str
    outcome: str
    began: float
    seconds: float
    waited: float
    held: float
    tags: tuple[str, ...]

    def write(self, stream: TextIO) -> None:
        stream.write(f"{json.dumps(asdict(self))}\n")
        stream.flush()


class Journals:
    """The journals of all workers, by name."""

    def __init__(self, lines: dict[str, list[Line]]) -> None:
        self._lines = lines

    @classmethod
    def read(cls, directory: Path) -> Journals:
        """Read them all; a line that its writer was killed over is none."""
        return cls({path.stem: list(_complete(path)) for path in sorted(directory.glob("*.jsonl"))})

    @property
    def operations(self) -> int:
        return len(self._all)

    def lost(self, killed: AbstractSet[str], *, listed: AbstractSet[str]) -> Iterator[str]:
        """Yield the promises that were broken.

        Args:
            killed: Names of workers that were killed.
            listed: What the index lists in the end.
        """
        for name, lines in self._lines.items():
            for line in lines:
                if line.outcome.startswith(LOST):
                    yield f"{name}: {line.operation}: {line.outcome}"
            tags = lines[-1].tags if lines else ()
            # What came after the last line nobody wrote down: it may have removed the oldest tag.
            for tag in set(tags[1:] if name in killed else tags) - listed:
                yield f"{name}: {tag} is not listed any more"

    def figures(self) -> dict[str, str]:
        """Return how much was done, and how long the slowest took."""
        began = min(line.began for line in self._all)
        ended = max(line.began + line.seconds for line in self._all)
        done = Counter(line.operation for line in self._all)
        refused = Counter(line.outcome for line in self._all if line.outcome != "ok")
        slowest = max(self._all, key=lambda line: line.seconds)
        return {
            "a second": f"{self.operations / (ended - began):.1f}",
            **{name: str(count) for name, count in sorted(done.items())},
            **{name: str(count) for name, count in sorted(refused.items())},
            "slowest": f"{slowest.operation} {slowest.seconds:.2f} s",
            "index held at most": f"{1000 * max(line.held for line in self._all):.0f} ms",
            "waited for at most": f"{1000 * max(line.waited for line in self._all):.0f} ms",
        }

    @property
    def _all(self) -> list[Line]:
        return [line for lines in self._lines.values() for line in lines]


def _complete(path: Path) -> Iterator[Line]:
    for text in path.read_text().splitlines(keepends=True):
        if text.endswith("\n"):
            members = json.loads(text)
            yield Line(**{**members, "tags": tuple(members["tags"])})
