"""``verify`` against ``sha256sum`` of the same blobs on as many processors: at most 1.1 times as long.

.venv/bin/python -m bench.verify
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.paired import MICROPOD, Side, compare, environment, peak_mib, report
from bench.registry import registry, sample_image

GOAL = 1.1
IMAGES = 4
MEBIBYTES = 200


def main() -> int:
    """Measure, print, and fail if the goal is missed."""
    with tempfile.TemporaryDirectory() as directory, registry(Path(directory)) as host:
        micropod = [str(MICROPOD), "--root", f"{directory}/root"]
        for _ in range(IMAGES):
            pull = [*micropod, "pull", "--policy=always", sample_image(Path(directory), host, mebibytes=MEBIBYTES)]
            subprocess.run(pull, env=environment(), stdout=subprocess.DEVNULL, check=True)
        blobs = f"{directory}/root/images/blobs/sha256"
        processors = len(os.sched_getaffinity(0))
        find = ["sh", "-c", f"find {blobs} -type f -print0 | xargs -0 -n1 -P{processors} sha256sum"]
        verify = [*micropod, "verify", "-q"]
        size = sum(path.stat().st_size for path in Path(blobs).iterdir())
        result = compare(
            Side("micropod-img verify", [verify], lambda: None),
            Side(f"xargs -P{processors} sha256sum", [find], lambda: None),
            rounds=9,
        )
        memory = peak_mib(verify)
    report(f"verify, {size >> 20} MiB in cache", result, "micropod-img verify", f"xargs -P{processors} sha256sum")
    print(f"  ratio {result.ratio:.2f}, goal at most {GOAL}; {memory:.0f} MiB of memory")
    return 0 if result.ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
