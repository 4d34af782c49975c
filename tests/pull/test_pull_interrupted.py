"""A pull that ends in the middle of a layer: nothing half-done is left, and what arrived whole is not sent again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import UnavailableError
from tests.cli.command_line import PROGRAM, environment
from tests.support import stores
from tests.support.faults import cut, on, stalled
from tests.support.images import image
from tests.support.layers import layer, random_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from micropod_img.service import ImageService
    from tests.support.scripted import ScriptedRegistry

KIB = 1 << 10
PATIENCE = 20.0
WHOLE = random_layer(100 * KIB, seed=1)
PARTIAL = random_layer(300 * KIB, seed=2)
IMAGE = image([WHOLE, PARTIAL])
BEFORE = image([layer({"etc/before": b"before\n"})])
COMMAND = (*PROGRAM, "--root={root}", "--config={config}", "pull", "{ref}")
LIBRARY = (
    sys.executable,
    "-c",
    "import sys; from micropod_img import ImageService; ImageService(*sys.argv[1:3]).pull_image(sys.argv[3])",
    "{root}",
    "{config}",
    "{ref}",
)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def cranes_of(root: Path) -> list[str]:
    """Return the processes, but for this one, that were told a path of the store's work in progress."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(root / "tmp").encode() in words:
                found.append(entry.name)
    return found


def is_dead(process: str) -> bool:
    """Whether a process has let go of its files, each of its threads; init may take its time to reap it."""
    try:
        threads = [thread / "stat" for thread in Path("/proc", process, "task").iterdir()]
        return all(stat.read_text().rpartition(")")[2].split()[0] in {"Z", "X"} for stat in threads)
    except FileNotFoundError:
        return not Path("/proc", process).exists()
    except ProcessLookupError:
        return False  # a thread ended as we looked; look again


def staged(root: Path) -> list[Path]:
    return list((root / "tmp").iterdir())


@dataclass(frozen=True)
class HalfPulled:
    """A store in which another process is pulling an image: one layer is here, of the other one a part."""

    root: Path
    config: Path
    ref: str
    start: Callable[[Sequence[str]], subprocess.Popen[str]]

    def ended_by(self, number: signal.Signals, program: Sequence[str]) -> int:
        """Start to pull, send a signal in mid-layer, see that crane ends too, and return the status."""
        old = staged(self.root)
        process = self.start([word.format(root=self.root, config=self.config, ref=self.ref) for word in program])
        until(lambda: stores.blob_path(self.root, WHOLE.digest).exists() and self._partial_has_begun(old))
        cranes = cranes_of(self.root)
        assert len(cranes) == 1
        assert len(staged(self.root)) == 1
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        until(lambda: all(map(is_dead, cranes)))
        assert cranes_of(self.root) == []
        return process.returncode

    def _partial_has_begun(self, old: Sequence[Path]) -> bool:
        name = PARTIAL.digest.removeprefix("sha256:")
        new = [path for path in staged(self.root) if path not in old]
        parts = [part for path in new for part in path.glob(f"layout/blobs/sha256/{name}?*")]
        return any(path.stat().st_size > 0 for path in parts)


@pytest.fixture
def half_pulled(
    service: ImageService, store_root: Path, config_file: Path, scripted: ScriptedRegistry
) -> Iterator[HalfPulled]:
    service.pull_image(scripted.serve("some/before", "1", BEFORE))
    ref = scripted.serve("some/image", "1", IMAGE)
    scripted.faults = (on(PARTIAL.digest, stalled(at=200 * KIB)),)
    started: list[subprocess.Popen[str]] = []

    def start(argv: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            argv,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield HalfPulled(store_root, config_file, ref, start)
    for process in started:
        with process:
            process.kill()


def never_send_again(scripted: ScriptedRegistry) -> None:
    """Serve all, but of the layer that arrived whole not one byte more: who needs one waits for ever."""
    scripted.faults = (on(WHOLE.digest, stalled(at=0)),)


INTERRUPTED = pytest.mark.parametrize(
    ("program", "number", "status"),
    [
        pytest.param(COMMAND, signal.SIGINT, 130, id="command, SIGINT"),
        pytest.param(COMMAND, signal.SIGTERM, 143, id="command, SIGTERM"),
        pytest.param(LIBRARY, signal.SIGINT, -signal.SIGINT, id="library, SIGINT"),
    ],
)
KILLED = pytest.mark.parametrize(
    ("program", "number"),
    [
        pytest.param(COMMAND, signal.SIGKILL, id="command, SIGKILL"),
        pytest.param(LIBRARY, signal.SIGKILL, id="library, SIGKILL"),
        # Whose program does not handle it, dies of it.
        pytest.param(LIBRARY, signal.SIGTERM, id="library, SIGTERM"),
    ],
)


@INTERRUPTED
def test_a_pull_that_is_interrupted_leaves_nothing_half_done(
    program: Sequence[str], number: signal.Signals, status: int, half_pulled: HalfPulled, service: ImageService
) -> None:
    assert half_pulled.ended_by(number, program) == status

    assert staged(half_pulled.root) == []
    assert list((half_pulled.root / "locks").iterdir()) == []
    assert [one.digest for one in service.list_images()] == [BEFORE.digest]
    assert stores.blobs(half_pulled.root) & {WHOLE.digest, PARTIAL.digest} == {WHOLE.digest}


@KILLED
def test_what_a_pull_that_is_killed_leaves_is_swept_by_the_next_command(
    program: Sequence[str], number: signal.Signals, half_pulled: HalfPulled, service: ImageService
) -> None:
    assert half_pulled.ended_by(number, program) == -number

    assert [one.digest for one in service.list_images()] == [BEFORE.digest]
    assert len(staged(half_pulled.root)) == 1
    service.delete_image(BEFORE.digest)
    assert staged(half_pulled.root) == []
    assert list((half_pulled.root / "locks").iterdir()) == []
    assert stores.blobs(half_pulled.root) == {WHOLE.digest}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_the_next_pull_succeeds_and_layers_that_were_whole_are_not_sent_again(
    number: signal.Signals, half_pulled: HalfPulled, service: ImageService, scripted: ScriptedRegistry
) -> None:
    half_pulled.ended_by(number, COMMAND)
    before = stores.inodes(half_pulled.root)[WHOLE.digest]
    never_send_again(scripted)

    report = service.pull_images([half_pulled.ref])

    assert [one.digest for one in report.images] == [IMAGE.digest]
    assert report.reused_bytes == WHOLE.size
    assert stores.inodes(half_pulled.root)[WHOLE.digest] == before
    assert staged(half_pulled.root) == []


def test_a_layer_that_was_whole_when_the_process_was_killed_is_kept_though_nobody_had_published_it(
    half_pulled: HalfPulled, service: ImageService, scripted: ScriptedRegistry
) -> None:
    half_pulled.ended_by(signal.SIGKILL, COMMAND)
    # As if it had been killed a moment before: crane had renamed the layer, and nobody had looked since.
    stores.blob_path(half_pulled.root, WHOLE.digest).unlink()
    (staging,) = staged(half_pulled.root)
    in_staging = staging / "layout" / "blobs" / "sha256" / WHOLE.digest.removeprefix("sha256:")
    in_staging.write_bytes(WHOLE.content)
    never_send_again(scripted)

    report = service.pull_images([half_pulled.ref])

    assert [one.digest for one in report.images] == [IMAGE.digest]
    assert report.reused_bytes == WHOLE.size


@pytest.mark.slow
def test_a_pull_that_is_killed_again_and_again_comes_to_its_end(
    half_pulled: HalfPulled, service: ImageService, scripted: ScriptedRegistry
) -> None:
    for _ in range(3):
        half_pulled.ended_by(signal.SIGKILL, COMMAND)
        assert [one.digest for one in service.list_images()] == [BEFORE.digest]
    never_send_again(scripted)

    assert service.pull_image(half_pulled.ref).digest == IMAGE.digest
    assert staged(half_pulled.root) == []


def test_gc_takes_the_whole_layers_of_a_pull_that_nobody_takes_up_again(
    half_pulled: HalfPulled, service: ImageService
) -> None:
    half_pulled.ended_by(signal.SIGKILL, COMMAND)

    collected = service.collect_garbage()

    assert (collected.removed, collected.freed_bytes) == ((WHOLE.digest,), WHOLE.size)
    assert stores.blobs(half_pulled.root) == {BEFORE.digest, *(blob.digest for blob in BEFORE.blobs)}


@pytest.mark.usefixtures("_impatient")
def test_a_layer_that_is_cut_off_each_time_fails_the_pull_and_leaves_the_whole_ones_to_gc(
    service: ImageService, store_root: Path, scripted: ScriptedRegistry
) -> None:
    ref = scripted.serve("some/image", "1", IMAGE)
    scripted.faults = (on(PARTIAL.digest, cut(at=200 * KIB)),)

    with pytest.raises(UnavailableError) as caught:
        service.pull_image(ref)

    assert (caught.value.code, caught.value.exit_status) == ("connection-lost", 5)
    assert scripted.count(PARTIAL.digest) == 3
    assert service.list_images() == []
    assert stores.blobs(store_root) == {WHOLE.digest}
    collected = service.collect_garbage()
    assert (collected.removed, collected.freed_bytes) == ((WHOLE.digest,), WHOLE.size)
    assert stores.blobs(store_root) == set()


@pytest.mark.usefixtures("_impatient")
def test_a_layer_that_is_cut_off_twice_is_whole_the_third_time(
    service: ImageService, scripted: ScriptedRegistry
) -> None:
    ref = scripted.serve("some/image", "1", IMAGE)
    scripted.faults = (on(PARTIAL.digest, cut(at=200 * KIB), times=2),)

    report = service.pull_images([ref])

    assert [one.digest for one in report.images] == [IMAGE.digest]
    assert report.downloaded_bytes == sum(blob.size for blob in IMAGE.blobs)
