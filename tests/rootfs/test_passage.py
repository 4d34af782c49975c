"""Bytes on their way from the gate, in one thread, to a reader in another."""

from __future__ import annotations

import itertools
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.errors import DiskError
from micropod_img.rootfs.passage import NotPassedError, Passage, StoredPassage, UncompressedPassage
from tests.support.processes import PROMPTLY
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

SIZE = 10_000
CONTENT = random.Random(0).randbytes(SIZE)  # noqa: S311 - no secret
AHEAD, BEHIND = 1000, 300


class Gate:
    """Lets bytes pass, stored or uncompressed ones: for these tests they are the same."""

    def __init__(self, passage: Passage, content: bytes = CONTENT) -> None:
        self.passage = passage
        self._content = content
        self._end = 0

    def let_pass(self, up_to: int) -> None:
        start, self._end = self._end, up_to
        self.passage.passed(self._content[start:up_to], up_to)

    def let_all_pass(self) -> None:
        self.let_pass(self.passage.size)
        self.passage.complete()
        self.passage.end()


@pytest.fixture
def cancellation() -> Cancellation:
    return Cancellation()


@pytest.fixture(params=["stored", "uncompressed"])
def gate(request: pytest.FixtureRequest, cancellation: Cancellation, tmp_path: Path) -> Iterator[Gate]:
    """The gate of a passage of each kind."""
    passage: Passage
    if request.param == "stored":
        passage = StoredPassage(stored_file(tmp_path), SIZE, cancellation)
    else:
        passage = UncompressedPassage(SIZE, cancellation)
    assert passage.is_uncompressed == (request.param == "uncompressed")
    yield Gate(passage)
    passage.stop_reading()


def stored_file(directory: Path) -> int:
    path = directory / "stored"
    path.write_bytes(CONTENT)
    return os.open(path, os.O_RDONLY)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, cancellation: Cancellation) -> UncompressedPassage:
    """A passage of which the gate may be ahead by little."""
    make_narrow(monkeypatch)
    return UncompressedPassage(SIZE, cancellation)


def make_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UncompressedPassage, "AHEAD", AHEAD)
    monkeypatch.setattr(UncompressedPassage, "BEHIND", BEHIND)


@pytest.fixture
def executor(cancellation: Cancellation) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made
        cancellation.cancel()  # a test that fails may leave somebody waiting


def read_waiting(executor: ThreadPoolExecutor, passage: Passage, offset: int, size: int) -> Future[bytes]:
    """Begin to read what has not passed yet; return when it waits."""
    reader = executor.submit(passage.read, offset, size)
    wait_until(lambda: reader.done() or is_waited_for(passage._readable))
    assert not reader.done()
    return reader


def pass_waiting(executor: ThreadPoolExecutor, gate: Gate, up_to: int) -> Future[None]:
    """Begin to let pass what there is no room for; return when that waits."""
    assert isinstance(gate.passage, UncompressedPassage)
    room = gate.passage._has_room
    passing = executor.submit(gate.let_pass, up_to)
    wait_until(lambda: passing.done() or is_waited_for(room))
    assert not passing.done()
    return passing


def is_waited_for(condition: threading.Condition) -> bool:
    return bool(vars(condition)["_waiters"])


def held_bytes(passage: UncompressedPassage) -> int:
    return sum(map(len, passage._chunks))


def test_a_read_waits_until_its_bytes_have_passed_and_returns_exactly_these(
    gate: Gate, executor: ThreadPoolExecutor
) -> None:
    gate.let_pass(3000)
    reader = read_waiting(executor, gate.passage, 2000, 3000)
    gate.let_pass(4999)
    wait_until(lambda: is_waited_for(gate.passage._readable))
    assert not reader.done()
    gate.let_pass(5001)
    assert reader.result(PROMPTLY) == CONTENT[2000:5000]


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 5000), (1234, 567), (4999, 1)])
def test_what_has_passed_is_read_without_waiting(offset: int, size: int, gate: Gate) -> None:
    gate.let_pass(5000)
    assert gate.passage.read(offset, size) == CONTENT[offset : offset + size]


def test_the_last_byte_waits_for_the_verdict_on_all(gate: Gate, executor: ThreadPoolExecutor) -> None:
    gate.let_pass(SIZE)
    assert gate.passage.read(0, SIZE - 1) == CONTENT[:-1]
    reader = read_waiting(executor, gate.passage, SIZE - 100, 100)
    gate.passage.complete()
    assert reader.result(PROMPTLY) == CONTENT[-100:]


def test_it_has_begun_while_there_is_something_to_be_read(gate: Gate) -> None:
    has_begun = []
    for up_to in (0, 1):
        gate.let_pass(up_to)
        has_begun.append(gate.passage.has_begun)
    gate.passage.end()
    has_begun.append(gate.passage.has_begun)
    assert has_begun == [False, True, False]


def test_a_reader_that_waits_is_told_when_no_more_passes(gate: Gate, executor: ThreadPoolExecutor) -> None:
    gate.let_pass(3000)
    reader = read_waiting(executor, gate.passage, 2000, 1001)
    gate.passage.end()
    with pytest.raises(NotPassedError):
        reader.result(PROMPTLY)
    assert gate.passage.has_ended


def test_when_no_more_passes_only_what_has_passed_is_read(gate: Gate) -> None:
    gate.let_pass(3000)
    gate.passage.end()
    assert gate.passage.read(2000, 1000) == CONTENT[2000:3000]
    gate.let_pass(4000)
    gate.passage.complete()
    with pytest.raises(NotPassedError):
        gate.passage.read(2000, 1001)
    assert gate.passage.has_ended


def test_all_bytes_without_a_verdict_are_not_all(gate: Gate) -> None:
    gate.let_pass(SIZE)
    gate.passage.end()
    assert gate.passage.has_ended
    assert gate.passage.read(0, SIZE - 1) == CONTENT[:-1]
    with pytest.raises(NotPassedError):
        gate.passage.read(SIZE - 1, 1)


def test_an_end_after_all_has_passed_changes_nothing(gate: Gate) -> None:
    gate.let_all_pass()
    assert (gate.passage.has_begun, gate.passage.has_ended) == (True, False)
    assert gate.passage.read(0, SIZE) == CONTENT


def test_a_reader_that_waits_is_called_off(
    gate: Gate, executor: ThreadPoolExecutor, cancellation: Cancellation
) -> None:
    reader = read_waiting(executor, gate.passage, 0, 1)
    cancellation.cancel()
    with pytest.raises(CancelledError):
        reader.result(PROMPTLY)


def test_a_reader_that_waits_ends_when_nobody_reads_any_more(gate: Gate, executor: ThreadPoolExecutor) -> None:
    gate.let_pass(100)
    reader = read_waiting(executor, gate.passage, 0, 101)
    gate.passage.stop_reading()
    with pytest.raises(NotPassedError):
        reader.result(PROMPTLY)


def test_what_nobody_reads_passes_to_its_end(gate: Gate) -> None:
    gate.let_pass(100)
    gate.passage.stop_reading()
    assert not gate.passage.has_begun
    gate.let_all_pass()
    assert not gate.passage.has_ended
    with pytest.raises(NotPassedError):
        gate.passage.read(0, 1)


@pytest.mark.parametrize("is_read", [True, False])
def test_what_the_check_of_the_size_raises_the_gate_gets_and_nothing_passes(is_read: bool, gate: Gate) -> None:  # noqa: FBT001
    asked: list[int] = []

    def refuse(size: int) -> None:
        asked.append(size)
        if size > 300:
            raise DiskError("full")

    gate.let_pass(100)
    gate.passage.check_size(refuse)
    if not is_read:
        gate.passage.stop_reading()
    gate.let_pass(300)
    with pytest.raises(DiskError, match="full"):
        gate.let_pass(301)
    assert asked == [300, 301]
    gate.passage.end()
    with pytest.raises(NotPassedError):
        gate.passage.read(300, 1)


def test_uncompressed_bytes_are_counted_where_stored_ones_are_read(cancellation: Cancellation, tmp_path: Path) -> None:
    passage = StoredPassage(stored_file(tmp_path), SIZE, cancellation)
    asked: list[int] = []
    passage.check_size(asked.append)
    for _ in range(3):
        passage.passed(bytes(5 * SIZE), 10)
    assert asked == [5 * SIZE, 10 * SIZE, 15 * SIZE]
    assert passage.read(0, 10) == CONTENT[:10]
    passage.stop_reading()


def test_a_stored_file_may_still_grow(cancellation: Cancellation, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(CONTENT[:100])
    passage = StoredPassage(os.open(path, os.O_RDONLY), SIZE, cancellation)
    gate = Gate(passage)
    gate.let_pass(100)
    assert passage.read(0, 100) == CONTENT[:100]
    with path.open("ab") as stream:
        stream.write(CONTENT[100:])
    gate.let_all_pass()
    assert passage.read(0, SIZE) == CONTENT
    passage.stop_reading()


def test_a_stored_file_is_closed_once(cancellation: Cancellation, tmp_path: Path) -> None:
    descriptor = stored_file(tmp_path)
    passage = StoredPassage(descriptor, SIZE, cancellation)
    passage.stop_reading()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    another = os.open(tmp_path / "stored", os.O_RDONLY)
    assert another == descriptor  # the lowest that is free
    passage.stop_reading()
    assert os.read(another, 1) == CONTENT[:1]
    os.close(another)


def test_the_gate_waits_for_a_reader_that_is_far_behind(
    narrow: UncompressedPassage, executor: ThreadPoolExecutor
) -> None:
    gate = Gate(narrow)
    for end in range(100, AHEAD + 1, 100):
        gate.let_pass(end)
    passing = pass_waiting(executor, gate, AHEAD + 100)
    assert narrow.read(0, AHEAD // 2 - 1) == CONTENT[: AHEAD // 2 - 1]
    wait_until(lambda: is_waited_for(narrow._has_room))
    assert narrow.read(AHEAD // 2 - 1, 1) == CONTENT[AHEAD // 2 - 1 : AHEAD // 2]
    passing.result(PROMPTLY)
    assert narrow.read(AHEAD, 100) == CONTENT[AHEAD : AHEAD + 100]


def test_a_gate_that_waits_goes_on_when_nobody_reads_any_more(
    narrow: UncompressedPassage, executor: ThreadPoolExecutor
) -> None:
    gate = Gate(narrow)
    gate.let_pass(AHEAD)
    passing = pass_waiting(executor, gate, AHEAD + 100)
    narrow.stop_reading()
    passing.result(PROMPTLY)
    gate.let_all_pass()
    assert held_bytes(narrow) == 0


def test_a_gate_that_waits_is_called_off(
    narrow: UncompressedPassage, executor: ThreadPoolExecutor, cancellation: Cancellation
) -> None:
    gate = Gate(narrow)
    gate.let_pass(AHEAD)
    passing = pass_waiting(executor, gate, AHEAD + 100)
    cancellation.cancel()
    with pytest.raises(CancelledError):
        passing.result(PROMPTLY)


def test_what_has_just_been_read_can_be_read_again_and_what_is_far_behind_cannot(
    narrow: UncompressedPassage,
) -> None:
    gate = Gate(narrow)
    for end in range(100, 901, 100):
        gate.let_pass(end)
        narrow.read(end - 100, 100)
    assert narrow.read(800 - BEHIND, 10) == CONTENT[800 - BEHIND : 810 - BEHIND]
    with pytest.raises(NotPassedError):
        narrow.read(0, 10)


@pytest.mark.parametrize("there_are", [0, 1, SIZE - 1])
def test_fewer_bytes_than_there_should_be_are_not_all(
    there_are: int, cancellation: Cancellation, executor: ThreadPoolExecutor
) -> None:
    passage = UncompressedPassage(SIZE, cancellation)
    Gate(passage).let_pass(there_are)
    reader = read_waiting(executor, passage, 0, SIZE)
    passage.complete()
    passage.end()
    with pytest.raises(NotPassedError):
        reader.result(PROMPTLY)
    assert passage.has_ended


@pytest.mark.parametrize("size", [0, 1, SIZE - 1])
def test_more_bytes_than_there_should_be_do_not_pass(
    size: int, cancellation: Cancellation, executor: ThreadPoolExecutor
) -> None:
    passage = UncompressedPassage(size, cancellation)
    gate = Gate(passage)
    reader = read_waiting(executor, passage, 0, size)
    gate.let_pass(size)
    gate.let_pass(SIZE)
    assert passage.has_ended
    with pytest.raises(NotPassedError):
        reader.result(PROMPTLY)
    passage.complete()
    passage.end()
    assert passage.has_ended
    with pytest.raises(NotPassedError):
        passage.read(0, size)


@settings(deadline=None, max_examples=30)
@given(
    chunks=st.lists(st.integers(1, AHEAD), min_size=1, max_size=20),
    reads=st.lists(st.integers(1, AHEAD // 2), min_size=1, max_size=20),
    back=st.integers(0, BEHIND),
)
def test_reads_of_any_size_give_the_bytes_of_chunks_of_any_size_and_few_are_kept(
    chunks: list[int], reads: list[int], back: int
) -> None:
    def let_all_pass() -> None:
        for _, end in pieces(chunks):
            gate.let_pass(end)
            kept.append(held_bytes(passage))
        passage.complete()

    kept: list[int] = []
    with pytest.MonkeyPatch.context() as monkeypatch, ThreadPoolExecutor(1) as executor:
        make_narrow(monkeypatch)
        passage = UncompressedPassage(SIZE, Cancellation())
        gate = Gate(passage)
        passing = executor.submit(let_all_pass)
        try:
            for start, end in pieces(reads):
                assert passage.read(start, end - start) == CONTENT[start:end]
                again = max(0, start - back)
                assert passage.read(again, end - start) == CONTENT[again : again + end - start]
        finally:
            passage.stop_reading()  # else a gate that waits would wait for ever
        passing.result(PROMPTLY)
    # Of the chunks at both ends a part may be kept that is of no use.
    assert max(kept) < AHEAD + 2 * max(reads) + BEHIND + 2 * max(chunks)


def pieces(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """Starts and ends of all pieces, of these lengths over and over."""
    start = 0
    for length in itertools.cycle(lengths):
        if start == SIZE:
            return
        end = min(start + length, SIZE)
        yield start, end
        start = end
