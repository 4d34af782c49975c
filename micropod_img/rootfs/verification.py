"""What is wrong with snapshots and pods, looked at beside others that make and remove them.

What is checked of a snapshot: that its files are there, that its chain is whole, and that nothing in it was changed
through the filesystem after it was made: each file's ctime, which nobody can set (inode(7)), is older than the record
of its parent, which is written last. What is not seen so is damage below the filesystem, and a change while the clock
was set back.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img.digest import Digest, parse_digest
from micropod_img.errors import IntegrityError, MicropodError, UnsupportedError, UsageError
from micropod_img.problems import Problem
from micropod_img.rootfs.chain import ChainId, chain_ids
from micropod_img.rootfs.drivers.choice import DriverSelection
from micropod_img.rootfs.drivers.driver import PodPaths
from micropod_img.rootfs.pod_record import PodRecord, parse_pod_record
from micropod_img.rootfs.pods import checked_id
from micropod_img.rootfs.quoting import quoted
from micropod_img.store.blobs import is_hex
from micropod_img.store.images import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from micropod_img.models import Image
    from micropod_img.store.store import Store

_OTHER_NAMES = frozenset({"driver.json", "l", "empty", "empty-too"})
_COPY = "copy"


@dataclass(frozen=True, slots=True)
class RootfsFindings:
    """What was found: problems, in no order, and how many snapshots and pods were looked at."""

    problems: tuple[Problem, ...]
    snapshots: int
    pods: int


def verify_root_filesystems(store: Store) -> RootfsFindings:
    """Look at every snapshot and pod of a store.

    Args:
        store: The store; an ordinary user has entered its user namespace.
    """
    first = _Look(store)
    problems = set(first.problems())
    if problems:  # what others made or removed as we looked is no problem
        problems &= set(_Look(store).problems())
    return RootfsFindings(tuple(problems), len(first.snapshots), len(first.pods))


class _Look:
    """What stands in the directories of snapshots and pods now."""

    def __init__(self, store: Store) -> None:
        self._layout = store.layout
        self._store = store
        self.pods = _names(store.layout.pods)  # before the snapshots: gc takes them once their pods are gone
        self.snapshots = frozenset(filter(is_hex, _names(store.layout.snapshots)))
        self._users: dict[ChainId, list[str]] = defaultdict(list)
        self._driver: str | None = None

    def problems(self) -> Iterator[Problem]:
        yield from self._driver_problems()
        for name in sorted(self.pods):
            yield from self._pod_problems(name)
        images = images_of_chains(self._store) if self.snapshots else {}
        for name in sorted(self.snapshots):
            yield from self._snapshot_problems(ChainId(Digest(f"sha256:{name}")), images)
        for name in sorted(_names(self._layout.snapshots) - self.snapshots - _OTHER_NAMES):
            path = self._layout.snapshots / name
            yield Problem("foreign-file", f"{path} is not of a store", str(path))

    def _driver_problems(self) -> Iterator[Problem]:
        path = self._layout.snapshot_driver
        try:
            self._driver = DriverSelection(self._store).recorded_name()
        except IntegrityError as error:
            yield Problem("corrupt-driver", error.message, str(path), pods=tuple(sorted(self.pods)))

    def _pod_problems(self, name: str) -> Iterator[Problem]:
        paths = PodPaths(self._layout.pods / name)
        try:
            checked_id(name)
        except UsageError:
            yield Problem("foreign-file", f"{paths.directory} is not a pod", str(paths.directory))
            return
        try:
            record = parse_pod_record(paths.record.read_bytes(), name=str(paths.record))
        except MicropodError as error:
            yield Problem("corrupt-pod", error.message, str(paths.record), pods=(name,))
            return
        except OSError:
            if paths.directory.exists() and not paths.draft.exists():  # or it is in the making, or was
                what = f"{paths.record} is missing: nobody knows what pod {name} is made of"
                yield Problem("corrupt-pod", what, str(paths.record), pods=(name,))
            return
        if record.id != name:
            what = f"{paths.record} is of pod {record.id[:128]!r}"
            yield Problem("corrupt-pod", what, str(paths.record), pods=(name,))
        yield from self._chain_problems(record)
        yield from self._directory_problems(paths, record)

    def _chain_problems(self, record: PodRecord) -> Iterator[Problem]:
        if record.driver == _COPY:  # it has its own files
            return
        if self._driver not in (None, record.driver):
            what = f"pod {record.id} was made with {record.driver}, and the snapshots with {self._driver}"
            yield Problem("pod-driver", what, str(self._layout.pod(record.id)), pods=(record.id,))
        for chain in record.chain_ids:
            self._users[chain].append(record.id)
            if chain.removeprefix("sha256:") not in self.snapshots:
                what = f"pod {record.id} needs snapshot {chain}, which is missing"
                yield Problem("missing-snapshot", what, str(self._layout.snapshot(chain)), chain, pods=(record.id,))

    def _directory_problems(self, paths: PodPaths, record: PodRecord) -> Iterator[Problem]:
        needed = [paths.rootfs]
        if record.driver != _COPY and not record.read_only:
            needed += [paths.upper, paths.work]
        for directory in needed:
            if not directory.is_dir() or directory.is_symlink():
                what = f"pod {record.id} has no directory {directory.name}"
                yield Problem("incomplete-pod", what, str(directory), pods=(record.id,))
        with contextlib.suppress(FileNotFoundError):
            try:
                json.loads(paths.config.read_bytes())
            except (ValueError, RecursionError):
                yield Problem("corrupt-bundle", f"{paths.config} is not JSON", str(paths.config), pods=(record.id,))

    def _snapshot_problems(self, chain: ChainId, images: Mapping[ChainId, Sequence[Image]]) -> Iterator[Problem]:
        place = self._layout.snapshot(chain)

        def problem(code: str, what: str) -> Problem:
            names = tuple(sorted({image.ref or image.digest for image in images.get(chain, ())}))
            pods = tuple(sorted(self._users.get(chain, ())))
            return Problem(code, f"snapshot {chain} {what}", str(place), chain, names, pods)

        files = place / "fs"
        if not files.is_dir() or files.is_symlink():
            yield problem("incomplete-snapshot", "has no files")
            return
        try:
            parent = (place / "parent").read_text("ascii", "replace")
            made = (place / "parent").lstat().st_ctime_ns
        except OSError:
            yield problem("incomplete-snapshot", "does not say what it was made on")
            return
        right = {_parent_in(image, chain) for image in images.get(chain, ())}
        if not _is_parent(parent) or (right and parent not in right):
            yield problem("incomplete-snapshot", "does not say what it was made on")
        elif parent and parent.removeprefix("sha256:") not in self.snapshots:
            yield problem("broken-chain", f"was made on {parent}, which is missing")
        changed = changed_since(files, made)
        if changed is not None:
            yield problem("changed-snapshot", f"was changed after it was made: {quoted(changed)}")


def images_of_chains(store: Store) -> dict[ChainId, list[Image]]:
    """Return the images that are here and that each snapshot is, or would be, of."""
    images = ImageStore(store)
    found: dict[ChainId, list[Image]] = defaultdict(list)
    with contextlib.suppress(MicropodError):
        for entry in store.read_index().entries:
            with contextlib.suppress(IntegrityError, UnsupportedError):
                for record in images.records([entry]):
                    image = images.image(record)
                    for chain in dict.fromkeys(chain_ids(layer.diff_id for layer in image.layer_details)):
                        found[chain].append(image)
    return found


def _parent_in(image: Image, chain: ChainId) -> str:
    ids = chain_ids(layer.diff_id for layer in image.layer_details)
    position = ids.index(chain)
    return ids[position - 1] if position else ""


def readable_pods(store: Store) -> Iterator[PodRecord]:
    """Yield the records of the pods that can be read."""
    for name in sorted(_names(store.layout.pods)):
        path = PodPaths(store.layout.pods / name).record
        with contextlib.suppress(MicropodError, OSError):
            yield parse_pod_record(path.read_bytes(), name=str(path))


def changed_since(files: Path, moment: int) -> bytes | None:
    """Return the name of a file in a tree that was changed after a moment, or None.

    Args:
        files: The root of the tree; no link in it is followed.
        moment: In nanoseconds, as ``st_ctime_ns``.
    """
    if files.lstat().st_ctime_ns > moment:
        return b"."
    for folder, directories, names, descriptor in os.fwalk(files, follow_symlinks=False):
        for name in (*directories, *names):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if status.st_ctime_ns > moment:
                    return os.fsencode(os.path.relpath(os.path.join(folder, name), files))  # noqa: PTH118 - fwalk speaks strings
    return None


def _names(directory: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _is_parent(text: str) -> bool:
    try:
        return not text or bool(parse_digest(text))
    except UsageError:
        return False
