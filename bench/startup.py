"""``pull`` of an image that is there, against ``python -c 'import typer'``: at most 2.5 times as long.

.venv/bin/python -m bench.startup
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.paired import MICROPOD, Side, compare, environment, report
from bench.registry import registry, sample_image

GOAL = 2.5


def main() -> int:
    """Measure, print, and fail if the goal is missed."""
    with tempfile.TemporaryDirectory() as directory, registry(Path(directory)) as host:
        ref = sample_image(Path(directory), host, mebibytes=1)
        pull = [str(MICROPOD), "--root", f"{directory}/root", "pull", ref]
        subprocess.run(pull, env=environment(), stdout=subprocess.DEVNULL, check=True)
        ours = Side("micropod-img pull (image is there)", [pull], lambda: None)
        theirs = Side("python -c 'import typer'", [[sys.executable, "-c", "import typer"]], lambda: None)
        result = compare(ours, theirs, rounds=30)
    report("start-up", result, ours.name, theirs.name)
    print(f"  ratio {result.ratio:.2f}, goal at most {GOAL}")
    return 0 if result.ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
