"""What two processes do to each other: fetch once, take over from one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import locks, progress
from tests.support import stores
from tests.support.faults import dripping, on
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.progress import Event
    from micropod_img.service import ImageService
    from tests.support.scripted import ScriptedRegistry

KIB = 1 << 10
SLOW = random_layer(300 * KIB)
QUICK = layer({"etc/quick": b"quick\n"})
TOP = image([QUICK, SLOW])
PULL = "import sys; from micropod_img import ImageService; ImageService(*sys.argv[1:3]).pull_image(sys.argv[3])"


def children_of(root: Path) -> list[int]:
    """Return the processes, but for this one, that were told a path below the store."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(root / "tmp").encode() in words:
                found.append(int(entry.name))
    return found


@pytest.fixture
def slow_ref(scripted: ScriptedRegistry) -> str:
    """An image of a small layer, and of one that takes two seconds to arrive."""
    scripted.faults = (on(SLOW.digest, dripping(150 * KIB)),)
    return scripted.serve("slow/image", "1", TOP)


@pytest.fixture
def puller(store_root: Path, config_file: Path, slow_ref: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is in the middle of pulling it: the small layer is here, the other one on its way."""
    argv = [sys.executable, "-c", PULL, str(store_root), str(config_file), slow_ref]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: stores.blob_path(store_root, QUICK.digest).exists())
        yield process
        process.kill()


@pytest.mark.slow
def test_what_another_process_fetches_is_waited_for_and_not_fetched_again(
    puller: subprocess.Popen[bytes],
    service: ImageService,
    scripted: ScriptedRegistry,
    slow_ref: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[Event] = []
    monkeypatch.setattr(locks, "SAY_AFTER_SECONDS", 0.0)

    pulled = service.pull_image(slow_ref, progress=events.append)

    assert pulled.digest == TOP.digest
    assert puller.wait(10) == 0
    waits = [event for event in events if isinstance(event, progress.Waiting)]
    assert [f"process {puller.pid} " in wait.holder for wait in waits] == [True]
    assert scripted.count(SLOW.digest) == 1
    assert scripted.count(QUICK.digest) == 1


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_its_whole_layers_and_no_crane(
    puller: subprocess.Popen[bytes],
    service: ImageService,
    scripted: ScriptedRegistry,
    slow_ref: str,
    store_root: Path,
) -> None:
    puller.send_signal(signal.SIGKILL)
    puller.wait()
    wait_until(lambda: children_of(store_root) == [])
    assert service.list_images() == []
    scripted.faults = ()
    scripted.forget_requests()

    report = service.pull_images([slow_ref])

    assert [one.digest for one in report.images] == [TOP.digest]
    assert report.reused_bytes == QUICK.size
    assert list((store_root / "tmp").iterdir()) == []


@pytest.mark.slow
def test_garbage_collection_beside_a_pull_takes_nothing_that_it_has(
    puller: subprocess.Popen[bytes], service: ImageService, store_root: Path
) -> None:
    while puller.poll() is None:
        assert service.collect_garbage().removed == ()
        time.sleep(0.05)

    assert puller.returncode == 0
    assert [one.digest for one in service.list_images()] == [TOP.digest]
    assert stores.problems(store_root) == []
