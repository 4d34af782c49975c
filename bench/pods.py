"""Time a warm ``create_pod`` as a library call: median and worst of a hundred, in milliseconds.

python -m bench.pods REF [ROOT]        REF is here already; the pods that are made are removed again.
"""

from __future__ import annotations

import statistics
import sys
import time

from micropod_img import ImageService

ROUNDS = 100
GOAL_MS = 5.0


def main() -> None:
    """Make pods, and say how long that took."""
    ref, root = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None  # noqa: PLR2004 - the second argument
    service = ImageService(root)
    pods = [service.create_pod(ref, policy="never")]
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        pods.append(service.create_pod(ref, policy="never"))
        taken.append((time.perf_counter() - started) * 1000)
    for pod in pods:
        service.remove_pod(pod.id)
    median = statistics.median(taken)
    print(f"create_pod: median {median:.2f} ms, worst {max(taken):.2f} ms; goal {GOAL_MS} ms: {median <= GOAL_MS}")


if __name__ == "__main__":
    main()
