"""Many at once: eight processes at one store, one of them killed now and then, and somebody who looks all the while."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img.rootfs.mountinfo import mount_points
from micropod_img.service import ImageService
from micropod_img.tools import find_tool
from tests.soak.load.images import Catalogue
from tests.soak.load.journal import Journals
from tests.soak.load.raw import Checker, references
from tests.soak.load.worker import UNPACKED
from tests.soak.outcome import Outcome
from tests.support import stores
from tests.support.registries import start_crane_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.soak.outcome import Plan

_WORKERS = 8
_SHORT_WORKERS = 4
_SHORT_SECONDS = 10.0
_KILL_EVERY_SECONDS = 2.0
_SHORT_KILL_EVERY_SECONDS = 1.0
_GRACE_SECONDS = 90.0
_HEX = 64
_CHECKOUT = Path(__file__).parent.parent.parent.parent


def run(plan: Plan) -> Outcome:
    """Hold the load for as long as the plan says; then clear the store, and look what is left."""
    root, config = plan.directory / "store", plan.directory / "config.toml"
    (plan.directory / "registries.conf").touch()
    config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    with start_crane_registry(find_tool("crane").path, plan.directory) as registry:
        catalogue = Catalogue(registry)
        images = catalogue.fill()
        images.write(plan.directory / "images.json")
        (plan.directory / UNPACKED).mkdir()
        service = ImageService(root, config)
        service.pull_image(images.kept)
        checker = Checker(root, images.kept)
        load = _Load(plan, root, config)
        with _looking(checker) as wrong:
            lost = load.hold(catalogue)
        journals = Journals.read(plan.directory)
        lost += [*wrong, *journals.lost(load.killed, listed=references(root))]
        lost += _cleared(service, root)
    figures = journals.figures() | {"killed": str(len(load.killed)), "looks": str(checker.looks)}
    return Outcome("operations", journals.operations, tuple(lost), figures)


class _Load:
    """The workers.

    Args:
        plan: For how long.
        root: The store.
        config: Its configuration.
    """

    def __init__(self, plan: Plan, root: Path, config: Path) -> None:
        self._plan = plan
        self._files = (root, config, plan.directory / "images.json")
        self._until = time.monotonic() + (min(plan.seconds, _SHORT_SECONDS) if plan.short else plan.seconds)
        self._dice = random.Random(0)  # noqa: S311 - when somebody is killed is no secret
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self.killed: set[str] = set()

    def hold(self, catalogue: Catalogue) -> list[str]:
        """Run the workers to their end, and kill one now and then; return what went wrong with them."""
        every = _SHORT_KILL_EVERY_SECONDS if self._plan.short else _KILL_EVERY_SECONDS
        for _ in range(_SHORT_WORKERS if self._plan.short else _WORKERS):
            self._start()
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(min(left, self._dice.uniform(0, 2 * every)))
            catalogue.move()
            self._kill_one()
        return [problem for name in self._workers if (problem := self._end_of(name)) is not None]

    def _start(self) -> None:
        name = f"worker-{len(self._workers)}"
        journal = self._plan.directory / f"{name}.jsonl"
        seconds = max(0.0, self._until - time.monotonic())
        argv = [sys.executable, "-m", "tests.soak.load.worker", *map(str, (*self._files, journal, seconds))]
        self._workers[name] = subprocess.Popen(argv, cwd=_CHECKOUT, stderr=subprocess.PIPE, text=True)

    def _kill_one(self) -> None:
        name = self._dice.choice([name for name in self._workers if name not in self.killed])
        if self._workers[name].poll() is None:
            self._workers[name].kill()
            self.killed.add(name)
            self._start()

    def _end_of(self, name: str) -> str | None:
        worker = self._workers[name]
        try:
            _, said = worker.communicate(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            _, said = worker.communicate()
            return f"{name} did not end: {said}"
        if name not in self.killed and worker.returncode != 0:
            return f"{name} ended with status {worker.returncode}: {said}"
        return None


@contextlib.contextmanager
def _looking(checker: Checker) -> Iterator[list[str]]:
    """Look in another thread for as long as the block runs; yield what is found wrong, each once."""
    wrong: dict[str, None] = {}
    found: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            wrong.update(dict.fromkeys(checker.look()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found += wrong


def _cleared(service: ImageService, root: Path) -> Iterator[str]:
    """Remove all that is in the store; yield what that leaves, or could not be done."""
    yield from (problem.message for problem in service.verify().problems)
    for pod in service.list_pods():
        service.remove_pod(pod.id)
    service.delete_images(sorted(references(root)))
    service.collect_garbage()
    yield from stores.problems(root)
    yield from (f"{path} is left" for path in (root.parent / UNPACKED).glob(".*"))
    yield from (f"blob {digest} is left" for digest in stores.blobs(root))
    yield from (f"snapshot {path.name} is left" for path in (root / "snapshots").iterdir() if len(path.name) == _HEX)
    yield from (f"{path} is still mounted" for path in mount_points() if path.is_relative_to(root))
    yield from (f"process {number} is left: {words}" for number, words in _processes_at(root))


def _processes_at(root: Path) -> Iterator[tuple[str, str]]:
    """Yield every other process that was told a path in the store."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                if os.fsencode(root) in words:
                    yield entry.name, words.replace(b"\0", b" ").decode(errors="replace")
