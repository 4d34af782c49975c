"""Pull 8 images that share a base from loopback at once, in a process each, into one store.

Against as many ``crane pull --format=oci`` at once, into a layout each since a common one loses entries, and then
``sync -f``; and against as many ``podman pull`` at once, into one storage. The goal: no slower than either.

    .venv/bin/python -m bench.many
"""

from __future__ import annotations

import gzip
import io
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.paired import CRANE, MICROPOD, ROOT, Side, compare, report
from bench.registry import registry, sample_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IMAGES = 8
BASE_MEBIBYTES = 60
GOAL_RATIO = 1.0


def main() -> int:
    """Measure, print, and fail if a goal is missed."""
    # Not in /tmp, which may be memory: syncing is part of what is measured.
    with tempfile.TemporaryDirectory(dir=ROOT / "bench") as name:
        directory = Path(name)
        with registry(directory) as host:
            base = sample_image(directory, host, mebibytes=BASE_MEBIBYTES)
            refs = [_image_on(base, directory, f"{host}/bench/own:{number}", number) for number in range(IMAGES)]
            ours = _ours(directory / "root", refs)
            ratios = [_compared(ours, theirs) for theirs in _others(directory, refs)]
    return 0 if all(ratio <= GOAL_RATIO for ratio in ratios) else 1


def _compared(ours: Side, theirs: Side) -> float:
    result = compare(ours, theirs, rounds=3)
    report(f"{IMAGES} images on one base of {BASE_MEBIBYTES} MiB at once", result, ours.name, theirs.name)
    print(f"  ratio {result.ratio:.2f}, goal at most {GOAL_RATIO}")
    return result.ratio


def _ours(root: Path, refs: Sequence[str]) -> Side:
    pulls = [[str(MICROPOD), "--root", str(root), "pull", "-q", ref] for ref in refs]
    return Side("micropod-img pull", [_at_once(pulls)], lambda: shutil.rmtree(root, ignore_errors=True))


def _others(directory: Path, refs: Sequence[str]) -> Iterable[Side]:
    layouts = directory / "layouts"
    pulls = [[str(CRANE), "pull", "--format=oci", ref, str(layouts / str(number))] for number, ref in enumerate(refs)]

    def without_layouts() -> None:
        shutil.rmtree(layouts, ignore_errors=True)
        layouts.mkdir()

    yield Side("crane pull --format=oci, sync -f", [_at_once(pulls), ["sync", "-f", str(layouts)]], without_layouts)
    podman = shutil.which("podman")
    if podman is None:
        return
    storage, state = directory / "storage", directory / "state"
    options = [podman, "--root", str(storage), "--runroot", str(state)]

    def without_storage() -> None:
        if storage.exists():
            subprocess.run([*options, "system", "reset", "--force"], capture_output=True, check=False)
        shutil.rmtree(storage, ignore_errors=True)

    # What podman makes of a layer is its files, so it unpacks as well: what ours leaves to the first pod.
    pulls = [[*options, "pull", "-q", "--tls-verify=false", ref] for ref in refs]
    yield Side("podman pull, which unpacks as well", [_at_once(pulls)], without_storage)
    without_storage()


def _at_once(commands: Sequence[Sequence[str]]) -> list[str]:
    """Return a command that runs several at the same time, and fails if one of them does."""
    started = "".join(f"{shlex.join(command)} & p{number}=$!\n" for number, command in enumerate(commands))
    awaited = " && ".join(f"wait $p{number}" for number in range(len(commands)))
    return ["sh", "-c", f"{started}{awaited}"]


def _image_on(base: str, directory: Path, ref: str, number: int) -> str:
    """Push an image of a base and one small layer; return its reference."""
    layer = directory / f"own-{number}.tar.gz"
    with gzip.open(layer, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        content = str(number).encode()
        entry = tarfile.TarInfo(f"srv/own-{number}")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    command = [str(CRANE), "append", "--base", base, "--new_layer", str(layer), "--new_tag", ref]
    subprocess.run(command, check=True, capture_output=True)
    return ref


if __name__ == "__main__":
    sys.exit(main())
