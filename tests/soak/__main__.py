"""Run the sections of the soak and print what came of them; ``bin/soak`` is the way in."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.soak import bad_inputs, disk_faults, interrupts, kill_points, network_faults
from tests.soak.load import section as load
from tests.soak.outcome import Outcome, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SECTIONS: Mapping[str, Callable[[Plan], Outcome]] = {
    "kill-points": kill_points.run,
    "interrupts": interrupts.run,
    "disk-faults": disk_faults.run,
    "bad-inputs": bad_inputs.run,
    "network-faults": network_faults.run,
    "load": load.run,
}
_SECONDS = 180.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; return 1 if anything was lost."""
    options = _parser().parse_args(arguments)
    os.environ["MICROPOD_REQUIRE_REAL"] = "1"  # what cannot be tried is not passed over in silence
    lost: list[str] = []
    print(f"{'section':<16}{'tried':<26}{'lost':>5}{'seconds':>9}  figures", flush=True)
    for name in options.sections or SECTIONS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            outcome = SECTIONS[name](Plan(options.short, options.seconds, Path(directory)))
        print(_row(name, outcome, time.monotonic() - began), flush=True)
        lost += [f"{name}: {line}" for line in outcome.lost]
    for line in lost:
        print(line, file=sys.stderr)
    return 1 if lost else 0


def _row(name: str, outcome: Outcome, seconds: float) -> str:
    tried = f"{outcome.tried} {outcome.name}"
    figures = ", ".join(f"{key} {value}" for key, value in outcome.figures.items())
    return f"{name:<16}{tried:<26}{len(outcome.lost):>5}{seconds:>9.1f}  {figures}".rstrip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bin/soak", description="Kill it anywhere, feed it anything, run many at once.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", type=_section, help=", ".join(SECTIONS))
    parser.add_argument("--short", action="store_true", help="a sample of everything, as the test suite runs it")
    parser.add_argument(
        "--seconds", type=float, default=_SECONDS, help="how long the load is held (default: %(default)g)"
    )
    return parser


def _section(name: str) -> str:
    if name not in SECTIONS:
        raise argparse.ArgumentTypeError(f"there is no section {name}; there are {', '.join(SECTIONS)}")
    return name


if __name__ == "__main__":
    sys.exit(main())
