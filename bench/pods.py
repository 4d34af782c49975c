"""What a pod costs: time as a library call and as a command, and disk.

The goals, for an image that is here already: ``create_pod`` takes at most 5 ms; ``micropod-img pod create`` at most
twice as long as ``podman create`` and ``podman mount``; 100 pods of an image of 1.1 GB take below 100 MiB of disk. As
root, with podman; the image is made on the spot.

    .venv/bin/python -m bench.pods
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench.paired import MICROPOD, ROOT, Side, compare, report
from bench.registry import registry, sample_image
from micropod_img import ImageService

if TYPE_CHECKING:
    from collections.abc import Callable

MEBIBYTES = 1050
CALLS = 100
PAIRS = 10
GOAL_CALL_MS = 5.0
GOAL_COMMAND_RATIO = 2.0
GOAL_DISK_MIB = 100.0


def main() -> int:
    """Measure, print, and fail if a goal is missed."""
    if os.geteuid() != 0:
        print("bench.pods: only root has the kernel's overlay on both sides")
        return 2
    with ExitStack() as stack:
        # Not in /tmp, which may be memory; podman's state there, since it takes a short path only.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "bench")))
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="podman-"))
        host = stack.enter_context(registry(directory))
        ref = sample_image(directory, host, mebibytes=MEBIBYTES, compressible=True)
        podman = ["podman", "--root", f"{directory}/podman", "--runroot", state, "--storage-driver", "overlay"]
        stack.callback(_quietly(["umount", "--lazy", f"{directory}/podman/overlay"]))  # a mount of its own storage
        service = ImageService(directory / "store")
        service.remove_pod(service.create_pod(ref).id)
        _silently([*podman, "pull", "--quiet", "--tls-verify=false", ref])
        met = [
            _library_call_and_disk(service, ref, directory / "store"),
            _command(directory / "store", podman, ref),
        ]
    return 0 if all(met) else 1


def _library_call_and_disk(service: ImageService, ref: str, root: Path) -> bool:
    """Make a hundred pods; say how long each took, and what all of them take."""
    before, free_before = _allocated(root), _free(root)
    taken: list[float] = []
    syncs: list[float] = []
    pods = []
    for _ in range(CALLS):
        began = time.perf_counter()
        pods.append(service.create_pod(ref, policy="never"))
        taken.append((time.perf_counter() - began) * 1000)
        syncs.append(_sync_ms(root.with_name("synced")))
    more, less_free = _allocated(root) - before, free_before - _free(root)
    for pod in pods:
        service.remove_pod(pod.id)
    median = statistics.median(taken)
    print(f"create_pod of an image that is here, as a library call ({CALLS} calls)")
    print(f"  median {median:.2f} ms, {min(taken):.2f} … {max(taken):.2f}; goal at most {GOAL_CALL_MS} ms")
    print(f"  one fsync of a new file, in turns with them: median {statistics.median(syncs):.2f} ms")
    print(f"disk of {CALLS} pods of an image of {MEBIBYTES} MiB")
    print(f"  in the store {more / 2**20:.1f} MiB, goal below {GOAL_DISK_MIB:.0f} MiB")
    print(f"  free on its filesystem, with all that others do: {-less_free / 2**20:+.1f} MiB")
    return median <= GOAL_CALL_MS and more < GOAL_DISK_MIB * 2**20


def _command(root: Path, podman: list[str], ref: str) -> bool:
    """Compare the commands, with a fresh pod each time."""
    micropod = [str(MICROPOD), "--root", str(root)]
    ours = Side(
        "micropod-img pod create",
        [[*micropod, "pod", "create", "--id", "bench", "--policy", "never", ref]],
        _quietly([*micropod, "pod", "rm", "bench"]),
    )
    theirs = Side(
        "podman create && podman mount",
        [[*podman, "create", "--name", "bench", "--pull", "never", ref, "/bin/true"], [*podman, "mount", "bench"]],
        _quietly([*podman, "rm", "--force", "bench"]),
    )
    result = compare(ours, theirs, rounds=PAIRS)
    ours.prepare()
    theirs.prepare()
    report("a pod of an image that is here, as a command", result, ours.name, theirs.name)
    print(f"  ratio {result.ratio:.2f}, goal at most {GOAL_COMMAND_RATIO}")
    return result.ratio <= GOAL_COMMAND_RATIO


def _quietly(command: list[str]) -> Callable[[], None]:
    """Return what runs a command that may fail, as there is nothing to remove the first time."""

    def remove() -> None:
        subprocess.run(command, capture_output=True, check=False)

    return remove


def _silently(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def _sync_ms(path: Path) -> float:
    """Return how long one small file takes to become durable here, which is most of what a pod costs."""
    with path.open("wb") as stream:
        stream.write(b"x")
        began = time.perf_counter()
        os.fsync(stream.fileno())
        taken = time.perf_counter() - began
    path.unlink()
    return taken * 1000


def _allocated(root: Path) -> int:
    """Return the bytes of the disk below a directory, as du -x counts them."""
    done = subprocess.run(["/usr/bin/du", "-sxB1", root], capture_output=True, check=True)
    return int(done.stdout.split()[0])


def _free(path: Path) -> int:
    os.sync()
    status = os.statvfs(path)
    return status.f_bfree * status.f_frsize


if __name__ == "__main__":
    sys.exit(main())
