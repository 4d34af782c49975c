"""From nothing to a pod: 66,000 files in three layers of 335 MiB, pulled, unpacked and mounted, against four others.

With a registry that gives 50 MB/s to all connections together, and on bare loopback. The goals: at most 0.8 times, and
at most 1.15 times, as long as ``crane pull --format=oci`` followed by ``umoci raw unpack``; and ahead of podman and
containerd in both. Ours is durable when it ends; of the others that is not asked.

Each round works in a new directory, and nothing is removed while there is room: for five minutes ext4 passes over the
inodes of removed files one by one when it makes new ones (fs/ext4/ialloc.c, recently_deleted), which doubles the time
of either side and is no property of it.

    .venv/bin/python -m bench.cold [--line slow|loopback] [--rival NAME]... [--rounds N]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.files_image import files_image
from bench.paired import CRANE, MICROPOD, ROOT, Side, compare, report
from bench.registry import registry
from bench.slow_line import slow_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BYTES_PER_SECOND = 50e6
TOOLS = "crane pull, umoci raw unpack"
GOALS: Mapping[str, Mapping[str, float]] = {
    "slow": {TOOLS: 0.8, "podman": 1.0, "containerd": 1.0},
    "loopback": {TOOLS: 1.15, "podman": 1.0, "containerd": 1.0},
}
UMOCI = CRANE.with_name("umoci")
_REMEMBERED_SECONDS = 360  # RECENTCY_MIN and RECENTCY_DIRTY
_ENOUGH = 4 << 30  # for what both sides leave of a round


def main() -> int:
    """Measure, print, and fail if a goal is missed."""
    parser = argparse.ArgumentParser(description="How long it takes from nothing to a pod.")
    parser.add_argument("--line", choices=list(GOALS), action="append")
    parser.add_argument("--rival", choices=list(GOALS["slow"]), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    missed = False
    comparisons = [(line, rival) for line in given.line or list(GOALS) for rival in given.rival or list(GOALS[line])]
    # Not in /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir=ROOT / "bench") as name, contextlib.ExitStack() as held:
        directory = Path(name)
        host = held.enter_context(registry(directory))
        ref = files_image(directory, host)
        hosts = {"slow": held.enter_context(slow_line(host, BYTES_PER_SECOND)), "loopback": host}
        for number, (line, rival) in enumerate(comparisons):
            place = directory / str(number)
            held.callback(_remove, place)
            if shutil.disk_usage(directory).free < _ENOUGH * (given.rounds + 1):
                for earlier in range(number):
                    _remove(directory / str(earlier))
                time.sleep(_REMEMBERED_SECONDS)
            missed |= not _measure(place, ref.replace(host, hosts[line], 1), line, rival, given.rounds)
    return int(missed)


def _measure(directory: Path, ref: str, line: str, rival: str, rounds: int) -> bool:
    goal = GOALS[line][rival]
    with contextlib.ExitStack() as held:
        held.callback(_unmount, directory)
        ours = held.enter_context(_ours(directory / "ours", ref))
        theirs = held.enter_context(RIVALS[rival](directory / "theirs", ref))
        result = compare(ours, theirs, rounds=rounds)
    report(f"cold pull to pod, {line} line", result, ours.name, theirs.name)
    print(f"  ratio {result.ratio:.2f}, goal at most {goal}", flush=True)
    return result.ratio <= goal


@contextlib.contextmanager
def _ours(directory: Path, ref: str) -> Iterator[Side]:
    command = [str(MICROPOD), "--root", str(directory), "pod", "create", "-q", ref]
    yield Side("micropod-img pod create", [command], lambda: _begin_anew(directory))


@contextlib.contextmanager
def _tools(directory: Path, ref: str) -> Iterator[Side]:
    layout = directory / "layout"
    commands = [
        [str(CRANE), "pull", "--format=oci", ref, str(layout)],
        # crane gives no name to what it pulls, and umoci wants one.
        [sys.executable, "-c", _NAME, str(layout / "index.json")],
        [str(UMOCI), "--log=error", "raw", "unpack", "--image", f"{layout}:bench", str(directory / "rootfs")],
    ]
    yield Side(TOOLS, commands, lambda: _begin_anew(directory))


_NAME = """\
import json, sys
with open(sys.argv[1], "r+") as file:
    index = json.load(file)
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "bench"}
    file.seek(0)
    json.dump(index, file)
    file.truncate()
"""


@contextlib.contextmanager
def _podman(directory: Path, ref: str) -> Iterator[Side]:
    places = ["--root", str(directory / "root"), "--runroot", str(directory / "run")]
    podman = ["podman", *places, "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]
    commands = [
        [*podman, "pull", "-q", "--tls-verify=false", ref],
        [*podman, "create", "-q", "--name", "bench", ref, "/none"],
        [*podman, "mount", "bench"],
    ]
    yield Side("podman pull, create, mount", commands, lambda: _begin_anew(directory))


@contextlib.contextmanager
def _containerd(directory: Path, ref: str) -> Iterator[Side]:
    """Run a containerd of our own, a new one for each round, outside the time."""
    ctr = ["ctr", "--address", str(directory / "containerd.sock")]
    with contextlib.ExitStack() as running:

        def restart() -> None:
            running.close()
            _begin_anew(directory)
            running.enter_context(_daemon(directory, [*ctr, "version"]))

        yield Side("ctr images pull", [[*ctr, "images", "pull", "--plain-http", ref]], restart)


@contextlib.contextmanager
def _daemon(directory: Path, probe: list[str]) -> Iterator[None]:
    config = directory / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    places = ["--root", str(directory / "root"), "--state", str(directory / "state"), "--address", probe[2]]
    log = (directory / "log").open("wb")
    with log, subprocess.Popen(["/usr/bin/containerd", "--config", str(config), *places], stderr=log) as daemon:
        try:
            while subprocess.run(probe, capture_output=True, check=False).returncode:
                assert daemon.poll() is None, (directory / "log").read_text()
                time.sleep(0.1)
            yield
        finally:
            daemon.terminate()


RIVALS: Mapping[str, Callable[[Path, str], contextlib.AbstractContextManager[Side]]] = {
    TOOLS: _tools,
    "podman": _podman,
    "containerd": _containerd,
}


def _begin_anew(directory: Path) -> None:
    """Put away what a round has made, let the disk come to rest, and free the memory that it takes."""
    _unmount(directory)
    if directory.exists():
        aside = directory.with_name(f"{directory.name}-{time.monotonic_ns()}")
        directory.rename(aside)
        os.sync()
        for path in aside.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    directory.mkdir(parents=True)
    os.sync()


def _remove(directory: Path) -> None:
    _unmount(directory)
    subprocess.run(["/usr/bin/rm", "-rf", str(directory)], check=True)
    os.sync()


def _unmount(directory: Path) -> None:
    mounts = [json.loads(f'"{line.split()[4]}"') for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in reversed([place for place in mounts if Path(place).is_relative_to(directory)]):
        subprocess.run(["/usr/bin/umount", place], check=True)


if __name__ == "__main__":
    sys.exit(main())
