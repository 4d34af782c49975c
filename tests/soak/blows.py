"""Let something befall every command at each of its steps, in two workers, and gather what was lost."""

from __future__ import annotations

import contextlib
import errno
import itertools
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from micropod_img.rootfs import syscalls
from micropod_img.tools import find_tool
from tests.soak.forked import Blow, become_workshop
from tests.soak.scenarios import IMAGES, OF_USERS, SCENARIOS
from tests.soak.workplace import Workplace
from tests.support.ordinary_user import UID, ordinary_user
from tests.support.push import push
from tests.support.registries import start_crane_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.soak.outcome import Plan
    from tests.support.ordinary_user import OrdinaryUser

_WORKERS = 2
_FEWER = 5
_DAMAGED = 7
_CHILD_STARTED: Final = "child has started"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of blow.

    Attributes:
        name: What it is.
        strike: What happens at the step.
        statuses: What the command may end with.
        befalls: Whether it can come before a step.
        delays: Seconds after the start of a child at which it comes as well.
        is_orderly: Whether the command can clean up before it ends, and so must.
    """

    name: str
    strike: Callable[[], None]
    statuses: frozenset[int]
    befalls: Callable[[str], bool] = lambda _step: True
    delays: tuple[float, ...] = ()
    is_orderly: bool = True


def _signal(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


_WRITING = ("open ", "os.link ", "os.mkdir ", "os.rename ", "os.symlink ", "fsync ")
_DURABLE = ("os.rename ", "fsync ", "syncfs")

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            "SIGKILL",
            _signal(signal.SIGKILL),
            frozenset({-signal.SIGKILL, 0}),
            delays=(0.001, 0.004, 0.016, 0.064),
            is_orderly=False,
        ),
        Kind("SIGINT", _signal(signal.SIGINT), frozenset({130, 0})),
        Kind("SIGTERM", _signal(signal.SIGTERM), frozenset({143, 0})),
        Kind("a full disk", lambda: _fail(errno.ENOSPC), frozenset({10, 0}), lambda step: step.startswith(_WRITING)),
        Kind("a broken disk", lambda: _fail(errno.EIO), frozenset({10, 0}), lambda step: step.startswith(_DURABLE)),
    )
}


@dataclass(frozen=True, slots=True)
class Point:
    """Where something befalls a command: before a step, or some time after it."""

    kind: str
    who: str
    scenario: str
    at: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Struck:
    """What came of it: whether it came to that, how the command ended, and a line for each promise that it broke."""

    point: Point
    happened: bool
    status: int | None
    lost: tuple[str, ...]


def strike_everywhere(plan: Plan, *kinds: str, sample: int) -> list[Struck]:
    """Try every point of every command; in a short plan some points of some commands.

    Args:
        plan: Of the section.
        kinds: The names of the blows.
        sample: Of the points of a short plan, each of how many.
    """
    with (
        start_crane_registry(find_tool("crane").path, plan.directory) as registry,
        ordinary_user() as user,
        contextlib.ExitStack() as stack,
    ):
        references = {name: push(registry, name, "1", manifest) for name, manifest in IMAGES.items()}
        spawned = multiprocessing.get_context("spawn")  # a fork of this process would have its threads' locks
        begin = (references, registry.host, user, UID)
        workers = stack.enter_context(ProcessPoolExecutor(_WORKERS, spawned, _begin, begin))
        commands = [*(("root", name) for name in SCENARIOS), *(("a user", name) for name in OF_USERS)]
        commands = commands[:: _FEWER if plan.short else 1]
        steps = list(zip(commands, workers.map(_steps_of, *zip(*commands, strict=True)), strict=True))
        points = [
            point for kind in kinds for command, found in steps for point in _points(KINDS[kind], *command, found)
        ]
        return list(workers.map(_strike, points[:: sample if plan.short else 1]))


def _points(kind: Kind, who: str, scenario: str, steps: tuple[str, ...]) -> Iterator[Point]:
    for at, step in enumerate(steps):
        if kind.befalls(step):
            yield Point(kind.name, who, scenario, at)
    children = [at for at, step in enumerate(steps) if step == _CHILD_STARTED]
    for at, delay in itertools.product(children, kind.delays):
        yield Point(kind.name, who, scenario, at, delay)


# In the workers

_make_place: dict[str, Callable[[], Workplace]] = {}
_places: dict[str, Workplace] = {}


def _begin(references: Mapping[str, str], host: str, user: OrdinaryUser, uid: int) -> None:
    become_workshop(user.namespace)
    # In memory, as what a kill leaves is the same there; and it goes with this process.
    syscalls.mount("none", str(user.home), "tmpfs", 0, "size=1g,mode=0755")
    for who, owner in (("root", None), ("a user", uid)):
        place = user.home / who.removeprefix("a ")
        place.mkdir()
        os.chown(place, owner or 0, owner or 0)
        _make_place[who] = partial(Workplace, place, references, host, uid=owner)


def _place_of(who: str) -> Workplace:
    if who not in _places:
        _places[who] = _make_place[who]()
    return _places[who]


def _steps_of(who: str, name: str) -> tuple[str, ...]:
    return _place_of(who).steps_of(SCENARIOS[name])


def _strike(point: Point) -> Struck:
    kind = KINDS[point.kind]
    blow = Blow(point.at, kind.strike, point.delay)
    ended, lost = _place_of(point.who).strike(SCENARIOS[point.scenario], blow, is_orderly=kind.is_orderly)
    happened = point.at < len(ended.steps) and kind.befalls(ended.steps[point.at])
    # A repair goes on after what it could not do, and says that.
    if ended.status not in kind.statuses | ({_DAMAGED} if SCENARIOS[point.scenario].damaged else set()):
        lost.insert(0, f"it ended with {ended.status}: {ended.said}")
    step = ended.steps[min(point.at, len(ended.steps) - 1)] if ended.steps else "any step"
    when = f"{point.delay * 1000:g} ms after" if point.delay else "before"
    where = f"{point.scenario} by {point.who}, {point.kind} {when} step {point.at} ({step})"
    return Struck(point, happened, ended.status, tuple(f"{where}: {line}" for line in lost))
