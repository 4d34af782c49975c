"""What must be true of a store and of what is around it, read from files and from /proc, and not by the program."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.soak.forked import orphans_left
from tests.support import stores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.soak.scenarios import Scenario

_CHAIN_LENGTH = hashlib.sha256().digest_size * 2


@dataclass(frozen=True, slots=True)
class Place:
    """The directory that a store, and what commands leave beside it, is in."""

    directory: Path

    @property
    def root(self) -> Path:
        """The store."""
        return self.directory / "store"

    @property
    def around(self) -> Path:
        """The home of whoever runs the commands, with their credentials, and where they unpack and mount."""
        return self.directory / "around"

    @property
    def is_store(self) -> bool:
        """Whether the store was made."""
        return (self.root / "version").exists()

    def pods(self) -> list[str]:
        """Return the ids of the pods that are there."""
        return [path.parent.name for path in (self.root / "pods").glob("*/pod.json")]

    def snapshots(self) -> dict[str, str]:
        """Return the fingerprints of the snapshots that are there, by name."""
        found = [path for path in (self.root / "snapshots").glob("*") if len(path.name) == _CHAIN_LENGTH]
        return {path.name: fingerprint(path / "fs") for path in found}

    def files_seen_at(self, path: Path) -> str:
        """Return the fingerprint of a directory as it is seen where an ordinary user's pods are mounted."""
        holder = self.holder()
        return fingerprint(path if holder is None else Path(f"/proc/{holder}/root{path}"))

    def holder(self) -> int | None:
        """Return the process in whose namespace an ordinary user's pods are mounted, if it lives."""
        try:
            process = int((self.root / "locks/namespace").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return None
        return process if Path("/proc", str(process), "ns/mnt").exists() else None

    def mount_points(self, process: int) -> list[Path]:
        """Return what a process sees mounted below this place, the innermost first."""
        points = [Path(line.split()[4]) for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines()]
        below = [point for point in points if point != self.directory and point.is_relative_to(self.directory)]
        return sorted(below, key=lambda point: len(point.parts), reverse=True)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of the images, from commands that nothing has disturbed.

    Attributes:
        names: Their canonical references, by their names in scenarios.
        snapshots: The fingerprint of each snapshot, by its name.
        files: The fingerprint of the small image's files: in a pod, where it is mounted, where it is unpacked.
    """

    names: Mapping[str, str]
    snapshots: Mapping[str, str]
    files: Mapping[str, str]


def broken(place: Place, truth: Truth, scenario: Scenario) -> Iterator[str]:
    """Yield what must not be at any time."""
    if place.is_store:
        yield from stores.broken(place.root)
        listed = {reference for reference, _ in stores.listed(place.root)}
        yield from (f"{name} is not listed" for name in scenario.keeps if truth.names[name] not in listed)
    elif scenario.keeps:
        yield "the store has lost its version"
    for name, found in place.snapshots().items():
        if found != truth.snapshots.get(name):
            yield f"snapshot {name} has other files"
    for pod in place.pods():
        directory = place.root / "pods" / pod
        for chain in json.loads((directory / "pod.json").read_bytes())["chain_ids"]:
            if not (place.root / "snapshots" / chain.removeprefix("sha256:")).exists():
                yield f"pod {pod} needs snapshot {chain}, which is gone"
        if scenario.bundle and not (directory / "config.json").exists():
            yield f"pod {pod} is there without its config.json"
    unpacked = place.around / "dest"
    if unpacked.exists() and place.files_seen_at(unpacked) != truth.files["dest"]:
        yield "the directory is there and not whole"


def undone(place: Place, truth: Truth, scenario: Scenario) -> Iterator[str]:
    """Yield what the command should have done, and has not though it was repeated."""
    if place.is_store:
        listed = {reference for reference, _ in stores.listed(place.root)}
        if listed != {truth.names[name] for name in scenario.listed}:
            yield f"these are listed: {listed}"
    if scenario.pod is not None:
        files = place.root / "pods" / scenario.pod / "rootfs"
        if scenario.pod not in place.pods():
            yield f"there is no pod {scenario.pod}"
        # A bundle has mount points besides.
        elif not scenario.bundle and place.files_seen_at(files) != truth.files["pod"]:
            yield f"pod {scenario.pod} has other files, or is not mounted"
    if scenario.filled is not None:
        found = place.files_seen_at(place.around / scenario.filled)
        if found != truth.files[scenario.filled]:
            yield f"{scenario.filled} has other files"


def unfinished(place: Place) -> Iterator[str]:
    """Yield what is left of work in progress."""
    orphans = orphans_left(but=place.holder())
    if orphans:
        yield f"{orphans} child processes went on"
    if place.is_store:
        # The record of the namespace that an ordinary user's pods are mounted in stays.
        yield from (line for line in stores.leftovers(place.root) if not line.endswith("/locks/namespace is left"))
    yield from (f"{path} is left" for path in (place.root / "pods").glob("*/pod.json.new"))
    yield from (f"{path} is left" for path in place.around.glob(".*.micropod-*"))
    yield from (f"{path} is left" for path in place.around.rglob("*.new"))


def left(place: Place) -> Iterator[str]:
    """Yield what is left where nothing may be left, when nothing is in use any more."""
    yield from unfinished(place)
    for process in filter(None, (os.getpid(), place.holder())):
        yield from (f"{point} is still mounted" for point in place.mount_points(process))
    if (place.root / "pods").exists():
        yield from (f"{path} is left" for path in (place.root / "pods").iterdir())


def fingerprint(tree: Path) -> str:
    """Return a digest of the names, types, modes, owners and contents of a tree; links are not followed."""
    lines: list[str] = []
    for folder, directories, names in os.walk(tree):
        directories.sort()
        for name in sorted((*names, *directories)):
            path = Path(folder, name)
            status = path.lstat()
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            owner = f"{status.st_uid}:{status.st_gid}"
            lines.append(f"{path.relative_to(tree)} {status.st_mode:o} {owner} {status.st_rdev} {content}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
