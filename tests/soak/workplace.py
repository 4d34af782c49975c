"""A directory in which commands are killed: a store in a known state, and a second opinion on it afterwards.

What a store must be is read here from its files, without the code that is under test.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img.reference import Reference
from tests.soak.forked import Blow, Ended, orphans_left, run_command
from tests.soak.scenarios import IMAGES, SCENARIOS
from tests.support import stores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.soak.scenarios import Scenario, Words

_LITTER = b"a blob that no image needs"
_POD_CREATED: Final = "pod create, cold"


class BrokenScenarioError(Exception):
    """A command that nothing befell has failed."""


class Workplace:
    """The place of one worker.

    Args:
        directory: Empty, and nobody else's.
        references: What the registry has, by repository.
        host: The registry.
    """

    def __init__(self, directory: Path, references: Mapping[str, str], host: str) -> None:
        self._directory = directory
        self._root = directory / "store"
        self._states = directory / "states"
        self._around = directory / "around"
        self._references = {**references, "name": "local/name:1"}
        self._words = {
            **self._references,
            "host": host,
            "destination": f"{host}/pushed-by-{os.getpid()}:1",
            "dest": str(self._around / "dest"),
            "place": str(self._around / "place"),
        }
        self._states.mkdir()
        (directory / "registries.conf").touch()
        (directory / "config.toml").write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
        for name in ("HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "TMPDIR"):
            os.environ[name] = str(self._around)
        self._snapshots, self._files = self._learned()

    def steps_of(self, scenario: Scenario) -> tuple[str, ...]:
        """Run a command to its end, and return its steps.

        Raises:
            BrokenScenarioError: It failed.
        """
        self._set_up(scenario)
        ended = self._run(scenario, observed=True)
        if ended.status != 0:
            raise BrokenScenarioError(f"{scenario.command} ended with {ended.status}: {ended.said}")
        self._tear_down()
        return ended.steps

    def strike(self, scenario: Scenario, blow: Blow, *, is_orderly: bool) -> tuple[Ended, list[str]]:
        """Run a command that something befalls.

        Args:
            scenario: The command.
            blow: What befalls it.
            is_orderly: Whether the command itself must clean up, and not the next one.

        Returns:
            How it ended, and what was lost.
        """
        self._set_up(scenario)
        ended = self._run(scenario, blow)
        lost = [*(self._unfinished() if is_orderly else ()), *self._broken(scenario), *self._after(scenario)]
        self._tear_down()
        return ended, lost

    # What a scenario finds

    def _set_up(self, scenario: Scenario) -> None:
        self._around.mkdir()
        for name in ("place", "work"):
            (self._around / name).mkdir()
        if scenario.store:
            subprocess.run(["/bin/cp", "-a", f"{self._state(scenario.store)}/.", str(self._directory)], check=True)
            for record in self._root.glob("snapshots/*/parent"):
                os.utime(record)  # it is newer than all that verify compares with it
        if scenario.litter:
            self._litter()
        for command in scenario.mounted:
            self._succeed(command)

    def _litter(self) -> None:
        place = self._root / "tmp/pull-killed/layout/blobs/sha256"
        place.mkdir(parents=True)
        whole = IMAGES["small"].layers[1].content
        for content, path in (
            (_LITTER, stores.blob_path(self._root, hashlib.sha256(_LITTER).hexdigest())),
            (whole, place / hashlib.sha256(whole).hexdigest()),
            (whole[:9], place / f"{hashlib.sha256(_LITTER).hexdigest()}12345"),
            (b"", self._root / "locks/blob-of-one-who-was-killed.lock"),
        ):
            path.write_bytes(content)
            path.chmod(0o644)

    def _state(self, commands: tuple[Words, ...]) -> Path:
        """Return a copy of the store, and of what is around it, that some commands make."""
        state = self._states / hashlib.sha256(repr(commands).encode()).hexdigest()[:12]
        if not state.exists():
            for command in commands:
                self._succeed(command)
            state.mkdir()
            made = [str(path) for path in (self._root, self._around) if path.exists()]
            subprocess.run(["/bin/cp", "-a", *made, str(state)], check=True)
            shutil.rmtree(self._root, ignore_errors=True)
        return state

    def _learned(self) -> tuple[Mapping[str, str], str]:
        """Return, from a pod that nothing has disturbed, what each snapshot and a pod's files must be."""
        scenario = SCENARIOS[_POD_CREATED]
        self._set_up(scenario)
        self._succeed(scenario.command)
        self._succeed(("pod", "create", "{other}", "--id", "other"))
        snapshots = {path.name: fingerprint(path / "fs") for path in self._snapshot_directories()}
        files = fingerprint(self._root / "pods/one/rootfs")
        self._tear_down()
        return snapshots, files

    def _tear_down(self) -> None:
        """Remove everything, with what is still mounted."""
        for point in self._mount_points():
            subprocess.run(["/bin/umount", "--lazy", str(point)], check=True)
        for path in (self._root, self._around):
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                subprocess.run(["/bin/rm", "-rf", str(path)], check=True)

    # What comes afterwards

    def _after(self, scenario: Scenario) -> Iterator[str]:
        """Yield what is wrong when life goes on: another command, the same one again, and one that cleans up."""
        for words in (("images", "--json"), ("verify",)):
            looked = self._command(words)
            if looked.status != 0:
                yield f"{words[0]} ended with {looked.status}: {looked.said}"
        again = self._run(scenario)
        if again.status not in scenario.repeated:
            yield f"repeated, it ended with {again.status}: {again.said}"
        yield from self._broken(scenario)
        yield from self._undone(scenario)
        for pod in self._pods():
            removed = self._command(("pod", "rm", pod))
            if removed.status != 0:
                yield f"pod rm ended with {removed.status}: {removed.said}"
        if scenario.filled == "place":
            self._command(("umount", "{place}"))
        cleaned = self._command(("gc",))
        if cleaned.status != 0:
            yield f"gc ended with {cleaned.status}: {cleaned.said}"
        yield from self._left()

    def _broken(self, scenario: Scenario) -> Iterator[str]:
        """Yield what must not be at any time."""
        if (self._root / "version").exists():
            yield from stores.broken(self._root)
            listed = {reference for reference, _ in stores.listed(self._root)}
            yield from (f"{name} is not listed" for name in scenario.keeps if self._canonical(name) not in listed)
        elif scenario.keeps:
            yield "the store has lost its version"
        for path in self._snapshot_directories():
            if fingerprint(path / "fs") != self._snapshots.get(path.name):
                yield f"snapshot {path.name} has other files"
        for pod in self._pods():
            record = json.loads((self._root / "pods" / pod / "pod.json").read_bytes())
            for chain in record["chain_ids"]:
                if not (self._root / "snapshots" / chain.removeprefix("sha256:")).exists():
                    yield f"pod {pod} needs snapshot {chain}, which is gone"
            if scenario.bundle and not (self._root / "pods" / pod / "config.json").exists():
                yield f"pod {pod} is there without its config.json"
        if scenario.filled == "dest" and (self._around / "dest").exists() and self._filled("dest") != self._files:
            yield "the directory is there and not whole"

    def _undone(self, scenario: Scenario) -> Iterator[str]:
        """Yield what the command should have done, and has not though it was repeated."""
        if (self._root / "version").exists():
            listed = {reference for reference, _ in stores.listed(self._root)}
            if listed != {self._canonical(name) for name in scenario.listed}:
                yield f"these are listed: {listed}"
        if scenario.pod is not None:
            if scenario.pod not in self._pods():
                yield f"there is no pod {scenario.pod}"
            elif not scenario.bundle and fingerprint(self._root / "pods" / scenario.pod / "rootfs") != self._files:
                yield f"pod {scenario.pod} has other files, or is not mounted"
        if scenario.filled is not None and self._filled(scenario.filled) != self._files:
            yield f"{scenario.filled} has other files"

    def _unfinished(self) -> Iterator[str]:
        """Yield what is left of work in progress."""
        orphans = orphans_left()
        if orphans:
            yield f"{orphans} child processes went on"
        if (self._root / "version").exists():
            yield from stores.leftovers(self._root)
        yield from (f"{path} is left" for path in (self._root / "pods").glob("*/pod.json.new"))
        yield from (f"{path} is left" for path in self._around.glob(".*.micropod-*"))
        yield from (f"{path} is left" for path in self._around.rglob("*.new"))

    def _left(self) -> Iterator[str]:
        """Yield what is left where nothing may be left, when nothing is in use any more."""
        yield from self._unfinished()
        yield from (f"{point} is still mounted" for point in self._mount_points())
        if (self._root / "pods").exists():
            yield from (f"{path} is left" for path in (self._root / "pods").iterdir())

    # Small things

    def _command(self, words: Words, *, stdin: str = "", blow: Blow | None = None, observed: bool = False) -> Ended:
        arguments = [word.format(**self._words) for word in words]
        given = ("--root", str(self._root), "--config", str(self._directory / "config.toml"))
        return run_command([*given, *arguments], stdin=stdin, blow=blow, observed=observed)

    def _run(self, scenario: Scenario, blow: Blow | None = None, *, observed: bool = False) -> Ended:
        return self._command(scenario.command, stdin=scenario.stdin, blow=blow, observed=observed)

    def _succeed(self, words: Words) -> None:
        ended = self._command(words, stdin="secret")
        if ended.status != 0:
            raise BrokenScenarioError(f"{words} ended with {ended.status}: {ended.said}")

    def _canonical(self, name: str) -> str:
        return str(Reference.parse(self._references[name]))

    def _pods(self) -> list[str]:
        return [path.parent.name for path in (self._root / "pods").glob("*/pod.json")]

    def _snapshot_directories(self) -> list[Path]:
        return [
            path for path in (self._root / "snapshots").glob("*") if len(path.name) == hashlib.sha256().digest_size * 2
        ]

    def _filled(self, name: str) -> str:
        return fingerprint(self._around / name)

    def _mount_points(self) -> list[Path]:
        """Return what is mounted below this place, the innermost first."""
        points = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        below = [point for point in points if point != self._directory and point.is_relative_to(self._directory)]
        return sorted(below, key=lambda point: len(point.parts), reverse=True)


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
