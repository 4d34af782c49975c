"""Pull 335 MiB from loopback, against bare ``crane pull --format=oci`` followed by ``sync -f``.

The goal: at most 150 ms more than 1.1 times as long, with every byte durable on both sides, and a peak of resident
memory below 80 MiB.

    .venv/bin/python -m bench.pull
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from bench.paired import CRANE, MICROPOD, ROOT, Side, compare, peak_mib, report
from bench.registry import registry, sample_image

MEBIBYTES = 335
GOAL_RATIO = 1.1
GOAL_MORE_SECONDS = 0.150
GOAL_PEAK_MIB = 80


def main() -> int:
    """Measure, print, and fail if a goal is missed."""
    # Not in /tmp, which may be memory: syncing is half of what is measured.
    with tempfile.TemporaryDirectory(dir=ROOT / "bench") as name:
        directory = Path(name)
        with registry(directory) as host:
            ref = sample_image(directory, host, mebibytes=MEBIBYTES)
            root, layout = directory / "root", directory / "layout"
            ours = Side(
                "micropod-img pull",
                [[str(MICROPOD), "--root", str(root), "pull", "-q", ref]],
                lambda: shutil.rmtree(root, ignore_errors=True),
            )
            theirs = Side(
                "crane pull --format=oci && sync -f",
                [[str(CRANE), "pull", "--format=oci", ref, str(layout)], ["sync", "-f", str(layout)]],
                lambda: shutil.rmtree(layout, ignore_errors=True),
            )
            result = compare(ours, theirs, rounds=11)
            ours.prepare()
            peak = peak_mib(ours.commands[0])
    report(f"pull of {MEBIBYTES} MiB from loopback", result, ours.name, theirs.name)
    more = result.median_ours - GOAL_RATIO * result.median_theirs
    print(f"  over {GOAL_RATIO} x theirs: {more * 1000:+.0f} ms, goal at most +{GOAL_MORE_SECONDS * 1000:.0f} ms")
    print(f"  peak resident memory, of Python or crane: {peak:.1f} MiB, goal below {GOAL_PEAK_MIB} MiB")
    return 0 if more <= GOAL_MORE_SECONDS and peak < GOAL_PEAK_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
