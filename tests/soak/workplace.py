"""A directory in which something befalls commands: the store that each of them finds, and what is done afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Final

from micropod_img.reference import Reference
from tests.soak.forked import Blow, Ended, Person, orphans_left, run_command
from tests.soak.scenarios import IMAGES, SCENARIOS
from tests.soak.second_opinion import Place, Truth, broken, left, undone, unfinished
from tests.support import stores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

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
        self._place = Place(directory)
        self._uid = uid
        self._states = directory / "states"
        self._states.mkdir()
        self._words = {
            **references,
            "name": "local/name:1",
            "host": host,
            "destination": f"{host}/pushed-by-{os.getpid()}:1",
            "dest": str(self._place.around / "dest"),
            "place": str(self._place.around / "place"),
        }
        self._config = directory / "config.toml"
        self._config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
        (directory / "registries.conf").touch()
        names = ("HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "TMPDIR")
        self._person = Person(uid, dict.fromkeys(names, str(self._place.around)))
        self._truth = self._learned({name: self._words[name] for name in (*references, "name")})

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
        lost = list(unfinished(self._place)) if is_orderly and not scenario.litter else []
        if not scenario.damaged:
            lost += broken(self._place, self._truth, scenario)
        lost += self._wrong_afterwards(scenario)
        self._tear_down()
        return ended, lost

    def _wrong_afterwards(self, scenario: Scenario) -> Iterator[str]:
        """Yield what is wrong when life goes on: other commands, the same one again, and one that cleans up."""
        yield from self._failure(("images", "--json"))
        if not scenario.damaged:
            yield from self._failure(("verify",))
        again = self._run(scenario)
        if again.status not in scenario.repeated:
            yield f"repeated, it ended with {again.status}: {again.said}"
        yield from broken(self._place, self._truth, scenario)
        yield from undone(self._place, self._truth, scenario)
        for pod in self._place.pods():
            yield from self._failure(("pod", "rm", pod))
        if scenario.filled == "place":
            yield from self._failure(("umount", "{place}"))
        yield from self._failure(("gc",))
        yield from left(self._place)

    def _set_up(self, scenario: Scenario) -> None:
        for path in (self._place.around, self._place.around / "place"):
            path.mkdir(exist_ok=True)
            self._give(path)
        if scenario.store:
            state = self._state(scenario.store)
            subprocess.run(["/bin/cp", "-a", *map(str, state.iterdir()), str(self._place.directory)], check=True)
            for record in self._place.root.glob("snapshots/*/parent"):
                os.utime(record)  # it is newer than all that verify compares with it
        if scenario.litter:
            self._litter()
        if scenario.damaged:
            damaged = stores.blob_path(self._place.root, IMAGES["small"].layers[1].digest)
            damaged.write_bytes(bytes(damaged.stat().st_size))
        for command in scenario.mounted:
            self._succeed(command)

    def _litter(self) -> None:
        """Leave a blob that no image needs, and what a pull that was killed leaves: a layer, a torn one, a lock."""
        place = self._place.root / "tmp/pull-killed/layout/blobs/sha256"
        place.mkdir(parents=True)
        litter, whole = hashlib.sha256(_LITTER).hexdigest(), IMAGES["small"].layers[1].content
        for content, path in (
            (_LITTER, stores.blob_path(self._place.root, litter)),
            (whole, place / hashlib.sha256(whole).hexdigest()),
            (_LITTER[:9], place / f"{litter}12345"),
            (b"", self._place.root / "locks/blob-of-one-who-was-killed.lock"),
        ):
            path.write_bytes(content)
            path.chmod(0o644)
            self._give(path)
        for path in (place, *place.parents[:3]):
            self._give(path)

    def _state(self, commands: tuple[Words, ...]) -> Path:
        """Return a copy of the store, and of what is around it, that some commands make."""
        state = self._states / hashlib.sha256(repr(commands).encode()).hexdigest()[:12]
        if not state.exists():
            for command in commands:
                self._succeed(command)
            self._end_namespace()
            state.mkdir()
            made = [str(path) for path in (self._place.root, self._place.around) if path.exists()]
            subprocess.run(["/bin/cp", "-a", *made, str(state)], check=True)
            shutil.rmtree(self._place.root, ignore_errors=True)
        return state

    def _learned(self, names: Mapping[str, str]) -> Truth:
        scenario = SCENARIOS[_POD_CREATED]
        self._set_up(scenario)
        self._succeed(scenario.command)
        for other in ("other", "large"):
            self._succeed(("pod", "create", f"{{{other}}}", "--id", other))
        self._succeed(("unpack", "{small}", "{dest}"))
        self._succeed(("mount", "{small}", "{place}"))
        files = {name: self._place.files_seen_at(self._place.around / name) for name in ("dest", "place")}
        files["pod"] = self._place.files_seen_at(self._place.root / "pods/one/rootfs")
        canonical = {name: str(Reference.parse(reference)) for name, reference in names.items()}
        truth = Truth(canonical, self._place.snapshots(), files)
        self._tear_down()
        return truth

    def _tear_down(self) -> None:
        """Remove everything, with what is still mounted."""
        self._end_namespace()
        for point in self._place.mount_points(os.getpid()):
            subprocess.run(["/bin/umount", "--lazy", str(point)], check=True)
        for path in (self._place.root, self._place.around):
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                subprocess.run(["/bin/rm", "-rf", str(path)], check=True)

    def _end_namespace(self) -> None:
        holder = self._place.holder()
        if holder is not None:
            os.kill(holder, signal.SIGKILL)
        orphans_left()

    def _give(self, path: Path) -> None:
        os.chown(path, self._uid or 0, self._uid or 0)

    def _run(self, scenario: Scenario, blow: Blow | None = None, *, observed: bool = False) -> Ended:
        return self._command(scenario.command, stdin=scenario.stdin, blow=blow, observed=observed)

    def _failure(self, words: Words) -> Iterator[str]:
        ended = self._command(words)
        if ended.status != 0:
            yield f"{words[0]} ended with {ended.status}: {ended.said}"

    def _succeed(self, words: Words) -> None:
        ended = self._command(words, stdin="secret")
        if ended.status != 0:
            raise BrokenScenarioError(f"{words} ended with {ended.status}: {ended.said}")

    def _command(self, words: Words, *, stdin: str = "", blow: Blow | None = None, observed: bool = False) -> Ended:
        arguments = [word.format(**self._words) for word in words]
        given = ("--root", str(self._place.root), "--config", str(self._config))
        return run_command([*given, *arguments], self._person, stdin=stdin, blow=blow, observed=observed)
