"""Snapshots get their names in order, when they are durable, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from micropod_img.digest import sha256_of
from micropod_img.errors import DiskError
from micropod_img.rootfs import commits
from micropod_img.rootfs.chain import ChainId, chain_ids
from micropod_img.rootfs.commits import Commits
from micropod_img.store.layout import StoreLayout
from tests.support.processes import soon

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SECONDS = 30
CHAIN = chain_ids(sha256_of(bytes([number])) for number in range(3))


class Disk:
    """Stands for the filesystem: what it is asked to make durable waits until it is let, and may fail."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.let.set()
        self.asked = threading.Event()
        self.done = threading.Event()
        self.synced: list[str] = []
        self.failures: list[BaseException | None] = []

    def sync(self, place: Path) -> None:
        self.asked.set()
        assert self.let.wait(SECONDS)
        self.synced.append(place.name)
        self.done.set()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(commits, "sync_filesystem", made.sync)
    return made


@pytest.fixture
def layout(store_root: Path) -> StoreLayout:
    made = StoreLayout(store_root)
    made.snapshots.mkdir()
    return made


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    """A directory for each snapshot of the chain, as it is before it has a name."""
    places = [tmp_path / f"made-{number}" for number in range(len(CHAIN))]
    for place in places:
        (place / "fs").mkdir(parents=True)
    return places


def held(released: list[ChainId], chain: ChainId, also: Callable[[], object] = lambda: None) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.callback(released.append, chain)
    stack.callback(also)
    return stack


def commit_all(layout: StoreLayout, made: Sequence[Path], released: list[ChainId], *, then: str = "") -> None:
    """Begin with one snapshot after the other; fail after that with what is to be said."""
    with Commits(layout) as committing:
        for chain, place in zip(CHAIN, made, strict=False):
            committing.begin(chain, place, held(released, chain))
        if then:
            raise ValueError(then)


def named(layout: StoreLayout) -> list[bool]:
    return [layout.snapshot(chain).is_dir() for chain in CHAIN]


def test_snapshots_get_their_names_in_order_and_what_was_held_is_let_go_of_then(
    layout: StoreLayout, made: list[Path], disk: Disk
) -> None:
    released: list[ChainId] = []
    names: list[list[bool]] = []
    with Commits(layout) as committing:
        for chain, place in zip(CHAIN, made, strict=True):
            committing.begin(chain, place, held(released, chain, lambda: names.append(named(layout))))
    assert names == [[True, False, False], [True, True, False], [True, True, True]]
    assert released == list(CHAIN)
    assert disk.synced == [place.name for place in made]
    assert not any(place.exists() for place in made)


def test_no_snapshot_has_its_name_before_it_is_durable(layout: StoreLayout, made: list[Path], disk: Disk) -> None:
    disk.let.clear()
    with Commits(layout) as committing:
        for chain, place in zip(CHAIN, made, strict=True):
            committing.begin(chain, place, contextlib.ExitStack())
        assert disk.asked.wait(SECONDS)
        assert named(layout) == [False, False, False]
        committing.raise_error()
        disk.let.set()
    assert named(layout) == [True, True, True]


def test_files_are_where_they_are_made_until_they_are_where_their_name_is(
    layout: StoreLayout, made: list[Path], disk: Disk
) -> None:
    disk.let.clear()
    places, names = [place / "fs" for place in made], [layout.snapshot(chain) / "fs" for chain in CHAIN]
    with Commits(layout) as committing:
        committing.begin(CHAIN[1], made[1], contextlib.ExitStack())
        with committing.files(CHAIN) as files:
            assert files == (names[0], places[1], names[2])
        with committing.files(()) as files:
            assert files == ()
        disk.let.set()
        assert soon(names[1].exists)
        with committing.files(CHAIN) as files:
            assert files == tuple(names)


def test_no_files_move_while_somebody_is_told_where_they_are(layout: StoreLayout, made: list[Path], disk: Disk) -> None:
    disk.let.clear()
    with Commits(layout) as committing:
        committing.begin(CHAIN[0], made[0], contextlib.ExitStack())
        with committing.files(CHAIN[:1]) as (place,):
            disk.let.set()
            assert disk.done.wait(SECONDS)
            assert place == made[0] / "fs"
            assert place.exists()
        assert soon((layout.snapshot(CHAIN[0]) / "fs").exists)


@pytest.mark.parametrize("failing", range(len(CHAIN)))
def test_what_is_over_a_snapshot_that_is_not_durable_gets_no_name_either(
    failing: int, layout: StoreLayout, made: list[Path], disk: Disk
) -> None:
    disk.failures = [*[None] * failing, OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken")]
    released: list[ChainId] = []
    with pytest.raises(DiskError) as caught:
        commit_all(layout, made, released)
    assert (caught.value.code, caught.value.exit_status) == ("disk-full", DiskError("").exit_status)
    assert str(made[failing]) in caught.value.message
    assert named(layout) == [number < failing for number in range(len(CHAIN))]
    assert disk.synced == [place.name for place in made[: failing + 1]]
    assert set(released) == set(CHAIN)


def test_a_name_that_cannot_be_given_is_an_error_as_well(layout: StoreLayout, made: list[Path], disk: Disk) -> None:
    (layout.snapshot(CHAIN[0]) / "fs").mkdir(parents=True)
    released: list[ChainId] = []
    with pytest.raises(DiskError):
        commit_all(layout, made[:2], released)
    assert named(layout) == [True, False, False]
    assert disk.synced == [made[0].name]
    assert set(released) == set(CHAIN[:2])


def test_an_error_is_raised_whenever_somebody_asks(layout: StoreLayout, made: list[Path], disk: Disk) -> None:
    disk.failures = [OSError(errno.EIO, os.strerror(errno.EIO))]
    released: list[ChainId] = []
    committing = Commits(layout)
    committing.begin(CHAIN[0], made[0], held(released, CHAIN[0]))
    for wait in (True, False):
        with pytest.raises(DiskError):
            committing.raise_error(wait=wait)
    with pytest.raises(DiskError):
        committing.__exit__(None, None, None)
    assert released == [CHAIN[0]]


def test_an_error_of_who_makes_snapshots_is_not_hidden_and_what_was_begun_ends(
    layout: StoreLayout, made: list[Path], disk: Disk
) -> None:
    disk.failures = [None, OSError(errno.EIO, os.strerror(errno.EIO))]
    released: list[ChainId] = []
    with pytest.raises(ValueError, match="layer 4"):
        commit_all(layout, made, released, then="layer 4")
    assert named(layout) == [True, False, False]
    assert set(released) == set(CHAIN)


def test_nothing_begun_is_nothing_to_wait_for(layout: StoreLayout) -> None:
    with Commits(layout) as committing:
        committing.raise_error(wait=True)
    assert named(layout) == [False, False, False]
