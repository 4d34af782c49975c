"""One of the processes of the load: does one thing after the other, at random, and writes down what came of each.

Argv: state directory, configuration, images, journal, seconds. What it tags and makes itself nobody else removes,
so it can look each time whether all of it is there still.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from micropod_img import ImageService, MicropodError
from micropod_img.store.store import Store
from tests.soak.load.images import NAME_FILE, Images
from tests.soak.load.journal import LOST, Line
from tests.soak.load.raw import references

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet
    from typing import Unpack

    from micropod_img.cancellation import Cancellation
    from micropod_img.models import Pod

_GONE = "image-not-found"
_IN_USE = "image-in-use"
_MOST_OF_ITS_OWN = 3

UNPACKED = "unpacked"
"""The directory, beside the journals, in which everyone unpacks."""


class LostError(Exception):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class Operation:
    """How often something is done, how, and with which codes of errors it may end."""

    weight: int
    act: Callable[[], None]
    no_surprise: AbstractSet[str] = frozenset()


class Worker:
    """Knows what is its own, and does things.

    Args:
        service: Of the store.
        images: What there is.
        directory: Where it unpacks.
        dice: Decides.
        name: Of this process, in the names of its images and pods.
    """

    def __init__(self, service: ImageService, images: Images, directory: Path, dice: random.Random, name: str) -> None:
        self._service = service
        self._images = images
        self._directory = directory
        self._dice = dice
        self._name = name
        self._made = 0
        self.tags: list[str] = []
        self._pods: list[Pod] = []

    def operations(self) -> dict[str, Operation]:
        return {
            "pull": Operation(6, self.pull),
            "pull newer": Operation(2, self.pull_newer),
            "pull whole": Operation(1, self.pull_whole),
            "pull never": Operation(2, self.pull_never, {_GONE}),
            "rmi": Operation(6, self.remove, {_GONE, _IN_USE}),
            "tag": Operation(4, self.tag, {_GONE, _IN_USE}),
            "pod create": Operation(5, self.create_pod, {_GONE}),
            "pod rm": Operation(4, self.remove_pod),
            "pod rm unknown": Operation(1, self.remove_unknown_pod, {"pod-not-found"}),
            "unpack": Operation(2, self.unpack, {_GONE}),
            "images": Operation(3, self.list_images),
            "inspect": Operation(3, self.inspect, {_GONE}),
            "df": Operation(1, self.measure),
            "gc": Operation(2, self.collect),
            "verify": Operation(1, self.verify),
        }

    def check(self) -> None:
        """Look whether all that is this worker's own is there.

        Raises:
            LostError: It is not.
        """
        lost = set(self.tags) - references(self._service.root)
        if lost:
            raise LostError(f"not listed any more: {', '.join(sorted(lost))}")
        for pod in self._pods:
            self._check_name(pod.rootfs, pod.image_digest, f"pod {pod.id}")
            if (pod.rootfs / "own").read_text() != pod.id:
                raise LostError(f"pod {pod.id} lost what was written to it")

    def pull(self) -> None:
        ref = self._dice.choice(self._images.ordinary)
        policy = self._dice.choice(("missing", "always"))
        self._check_digest(self._service.pull_image(ref, policy=policy).digest)  # type: ignore[arg-type]

    def pull_newer(self) -> None:
        self._check_digest(self._service.pull_image(self._images.moving, policy="newer").digest)

    def pull_whole(self) -> None:
        self._check_digest(self._service.pull_image(self._images.whole, all_platforms=True).digest)

    def pull_never(self) -> None:
        self._check_digest(self._service.pull_image(self._any(), policy="never").digest)

    def remove(self) -> None:
        self._service.delete_image(self._any())

    def tag(self) -> None:
        self._made += 1
        own = f"own.example/{self._name}/image:{self._made}"
        self._service.tag_image(self._dice.choice((self._any(), self._images.kept)), own)
        self.tags.append(own)
        if len(self.tags) > _MOST_OF_ITS_OWN:
            self._service.delete_image(self.tags[0])
            self.tags.pop(0)

    def create_pod(self) -> None:
        self._made += 1
        ref = self._dice.choice((self._any(), self._images.kept))
        policy = self._dice.choice(("missing", "never"))
        pod = self._service.create_pod(ref, pod_id=f"{self._name}-{self._made}", policy=policy)  # type: ignore[arg-type]
        (pod.rootfs / "own").write_text(pod.id)
        self._pods.append(pod)
        if len(self._pods) > _MOST_OF_ITS_OWN:
            self.remove_pod()

    def remove_pod(self) -> None:
        if self._pods:
            self._service.remove_pod(self._pods.pop(0).id)

    def remove_unknown_pod(self) -> None:
        self._service.remove_pod(f"{self._name}-unknown")

    def unpack(self) -> None:
        self._made += 1
        place = self._directory / f"{self._name}-{self._made}"
        ref = self._dice.choice((self._any(), self._images.kept))
        try:
            self._service.unpack(ref, place, policy="never")
            if (place / NAME_FILE).read_text() not in self._images.names.values():
                raise LostError(f"{ref} was unpacked to something else")
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def list_images(self) -> None:
        listed = self._service.list_images()
        for image in listed:
            self._check_digest(image.digest)
        if self._images.kept not in {image.ref for image in listed}:
            raise LostError(f"{self._images.kept} is not in the list of images")

    def inspect(self) -> None:
        self._check_digest(self._service.get_image(self._any()).digest)

    def measure(self) -> None:
        self._service.disk_usage()

    def collect(self) -> None:
        self._service.collect_garbage()

    def verify(self) -> None:
        problems = self._service.verify().problems
        if problems:
            raise LostError(f"verify: {'; '.join(problem.message for problem in problems)}")

    def _any(self) -> str:
        return self._dice.choice(self._images.removable)

    def _check_digest(self, digest: str) -> None:
        if digest not in self._images.names:
            raise LostError(f"{digest} is no image that was ever pushed")

    def _check_name(self, rootfs: Path, digest: str, what: str) -> None:
        name = (rootfs / NAME_FILE).read_text()
        if name != self._images.names[digest]:
            raise LostError(f"{what} is of {name}, and not of {self._images.names[digest]}")


class IndexTimes:
    """How long the index was waited for, and held, at most, in seconds; measured from when this is made."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.held = 0.0
        original = Store.index_lock

        @contextlib.contextmanager
        def timed(store: Store, owner: str, **how: Unpack[_Wait]) -> Iterator[None]:
            asked = time.monotonic()
            with original(store, owner, **how):
                taken = time.monotonic()
                self.waited = max(self.waited, taken - asked)
                try:
                    yield
                finally:
                    self.held = max(self.held, time.monotonic() - taken)

        Store.index_lock = timed  # type: ignore[assignment, method-assign]


class _Wait(TypedDict, total=False):
    timeout: float | None
    cancellation: Cancellation | None


def main(root: str, config: str, images: str, journal: str, seconds: str) -> None:
    name = Path(journal).stem
    dice = random.Random(name)  # noqa: S311 - the same for each run, and no secret
    directory = Path(journal).parent / UNPACKED
    worker = Worker(ImageService(root, config), Images.read(Path(images)), directory, dice, name)
    operations = worker.operations()
    names = [name for name, operation in operations.items() for _ in range(operation.weight)]
    index = IndexTimes()
    until = time.monotonic() + float(seconds)
    with Path(journal).open("w") as stream:
        while time.monotonic() < until:
            operation = dice.choice(names)
            began = time.monotonic()
            outcome = _outcome(worker, operations[operation])
            took = time.monotonic() - began
            Line(operation, outcome, began, took, index.waited, index.held, tuple(worker.tags)).write(stream)


def _outcome(worker: Worker, operation: Operation) -> str:
    try:
        operation.act()
        worker.check()
    except MicropodError as error:
        known = error.code in operation.no_surprise
        return error.code if known else f"{LOST} {error.code}: {error.message} {error.detail or ''}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is written down, and the load goes on
        return f"{LOST} {type(error).__name__}: {error}"
    return "ok"


if __name__ == "__main__":
    main(*sys.argv[1:])
