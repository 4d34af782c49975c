"""Time two commands in turns, so that whatever else the machine does meets both alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
CRANE = ROOT / "micropod_img" / "_tools" / "crane"
MICROPOD = Path(sys.executable).with_name("micropod-img")


@dataclass(frozen=True, slots=True)
class Side:
    """One of two commands.

    Attributes:
        name: What to call it.
        commands: What is run, one after the other.
        prepare: Is called before each round, outside the time.
    """

    name: str
    commands: Sequence[Sequence[str]]
    prepare: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of each round, in pairs."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def median_ours(self) -> float:
        """Median seconds of our side."""
        return statistics.median(self.ours)

    @property
    def median_theirs(self) -> float:
        """Median seconds of the other side."""
        return statistics.median(self.theirs)

    @property
    def ratio(self) -> float:
        """Median of the ratios of the pairs."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))


def compare(ours: Side, theirs: Side, *, rounds: int) -> Result:
    """Run both sides in turns, changing who is first; the first pair warms the caches and does not count."""
    seconds: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    for number in range(rounds + 1):
        for side in (ours, theirs) if number % 2 else (theirs, ours):
            side.prepare()
            began = time.perf_counter()
            for command in side.commands:
                subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True)
            if number:
                seconds[side.name].append(time.perf_counter() - began)
    return Result(tuple(seconds[ours.name]), tuple(seconds[theirs.name]))


def environment() -> Mapping[str, str]:
    """Return the environment of what is measured: byte code is cached, as it is for users."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def peak_mib(command: Sequence[str]) -> float:
    """Run a command; return the largest resident set, in MiB, of it and of the children that it waited for."""
    measure = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    arguments = [sys.executable, "-c", measure, *command]
    return int(subprocess.run(arguments, env=environment(), capture_output=True, check=True).stdout) / 1024


def report(title: str, result: Result, ours: str, theirs: str) -> None:
    """Print one comparison."""
    print(f"{title} ({len(result.ours)} pairs)")
    for name, median, values in (
        (ours, result.median_ours, result.ours),
        (theirs, result.median_theirs, result.theirs),
    ):
        print(f"  {name:<44} {median * 1000:8.1f} ms   {min(values) * 1000:.1f} … {max(values) * 1000:.1f}")
