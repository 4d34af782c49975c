"""A directory in which commands are killed: a store in a known state, and a second opinion on it afterwards.

What a store must be is read here from its files, without the code that is under test.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img.reference import Reference
from tests.soak.forked import Blow, Ended, Person, orphans_left, run_command
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
        uid: Who works here; root if None.
    """

    def __init__(self, directory: Path, references: Mapping[str, str], host: str, *, uid: int | None = None) -> None:
        self._directory = directory
        self._uid = uid
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
        names = ("HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "TMPDIR")
        self._person = Person(uid, dict.fromkeys(names, str(self._around)))
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
        must_be_clean = is_orderly and not scenario.litter
        lost = [*(self._unfinished() if must_be_clean else ()), *self._broken(scenario), *self._after(scenario)]
        self._tear_down()
        return ended, lost

    # What a scenario finds

    def _set_up(self, scenario: Scenario) -> None:
        for path in (self._around, self._around / "place"):
            path.mkdir(exist_ok=True)
            os.chown(path, self._uid or 0, self._uid or 0)
        if scenario.store:
            state = self._state(scenario.store)
            subprocess.run(["/bin/cp", "-a", *map(str, state.iterdir()), str(self._directory)], check=True)
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
            os.chown(path, self._uid or 0, self._uid or 0)
        for path in (place, *place.parents[:3]):
            os.chown(path, self._uid or 0, self._uid or 0)

    def _state(self, commands: tuple[Words, ...]) -> Path:
        """Return a copy of the store, and of what is around it, that some commands make."""
        state = self._states / hashlib.sha256(repr(commands).encode()).hexdigest()[:12]
        if not state.exists():
            for command in commands:
                self._succeed(command)
            self._end_namespace()
            state.mkdir()
            made = [str(path) for path in (self._root, self._around) if path.exists()]
            subprocess.run(["/bin/cp", "-a", *made, str(state)], check=True)
            shutil.rmtree(self._root, ignore_errors=True)
        return state

    def _learned(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return, from commands that nothing has disturbed, what snapshots, and the files that can be seen, must be."""
        scenario = SCENARIOS[_POD_CREATED]
        self._set_up(scenario)
        self._succeed(scenario.command)
        self._succeed(("pod", "create", "{other}", "--id", "other"))
        self._succeed(("unpack", "{small}", "{dest}"))
        self._succeed(("mount", "{small}", "{place}"))
        snapshots = {path.name: fingerprint(path / "fs") for path in self._snapshot_directories()}
        files = {name: self._fingerprint_seen(self._around / name) for name in ("dest", "place")}
        files["pod"] = self._fingerprint_seen(self._root / "pods/one/rootfs")
        self._tear_down()
        return snapshots, files

    def _tear_down(self) -> None:
        """Remove everything, with what is still mounted."""
        self._end_namespace()
        for point in self._mount_points(os.getpid()):
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
        if (
            scenario.filled == "dest"
            and (self._around / "dest").exists()
            and self._fingerprint_seen(self._around / "dest") != self._files["dest"]
        ):
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
            elif not scenario.bundle:
                found = self._fingerprint_seen(self._root / "pods" / scenario.pod / "rootfs")
                if found != self._files["pod"]:
                    yield f"pod {scenario.pod} has other files, or is not mounted"
        if scenario.filled is not None:
            found = self._fingerprint_seen(self._around / scenario.filled)
            if found != self._files[scenario.filled]:
                yield f"{scenario.filled} has other files"

    def _unfinished(self) -> Iterator[str]:
        """Yield what is left of work in progress."""
        orphans = orphans_left(but=self._holder())
        if orphans:
            yield f"{orphans} child processes went on"
        if (self._root / "version").exists():
            # The record of the namespace that an ordinary user's pods are mounted in stays.
            yield from (line for line in stores.leftovers(self._root) if not line.endswith("/locks/namespace is left"))
        yield from (f"{path} is left" for path in (self._root / "pods").glob("*/pod.json.new"))
        yield from (f"{path} is left" for path in self._around.glob(".*.micropod-*"))
        yield from (f"{path} is left" for path in self._around.rglob("*.new"))

    def _left(self) -> Iterator[str]:
        """Yield what is left where nothing may be left, when nothing is in use any more."""
        yield from self._unfinished()
        for process in filter(None, (os.getpid(), self._holder())):
            yield from (f"{point} is still mounted" for point in self._mount_points(process))
        if (self._root / "pods").exists():
            yield from (f"{path} is left" for path in (self._root / "pods").iterdir())

    # Small things

    def _command(self, words: Words, *, stdin: str = "", blow: Blow | None = None, observed: bool = False) -> Ended:
        arguments = [word.format(**self._words) for word in words]
        given = ("--root", str(self._root), "--config", str(self._directory / "config.toml"))
        return run_command([*given, *arguments], self._person, stdin=stdin, blow=blow, observed=observed)

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

    def _holder(self) -> int | None:
        """Return the process in whose namespace an ordinary user's pods are mounted, if it lives."""
        try:
            process = int((self._root / "locks/namespace").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return None
        return process if Path("/proc", str(process), "ns/mnt").exists() else None

    def _end_namespace(self) -> None:
        holder = self._holder()
        if holder is not None:
            os.kill(holder, signal.SIGKILL)
        orphans_left()

    def _fingerprint_seen(self, path: Path) -> str:
        """Return the fingerprint of a directory as it is seen where it is mounted."""
        holder = self._holder()
        return fingerprint(path if holder is None else Path(f"/proc/{holder}/root{path}"))

    def _mount_points(self, process: int) -> list[Path]:
        """Return what a process sees mounted below this place, the innermost first."""
        points = [Path(line.split()[4]) for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines()]
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
