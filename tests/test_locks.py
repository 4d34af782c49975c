"""Locks between processes: one at a time, whoever is killed, and who waits is told for whom."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil, locks
from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.locks import LockTimeoutError, Patience, Wait, locked, locked_directory
from tests.support.interrupts import interrupt_first_call
from tests.support.mounts import run_with_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parent.parent
PATIENCE = 10.0
FREE = Patience("the lock")


@contextlib.contextmanager
def another_python(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process of its own, which the test may kill; its lines come through a pipe."""
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        try:
            yield process
        finally:
            process.kill()


HOLDS = """
import sys, time
from pathlib import Path
from micropod_img.locks import Patience, locked, signed
with locked(Path(sys.argv[1]), Patience("the lock"), owner=signed("gc")):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""

HOLDS_UNSIGNED = """
import fcntl, sys, time
with open(sys.argv[1], "rb") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def held_by_another(path: Path, *, seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    with another_python(HOLDS, path, str(seconds)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_by_another(path) as process:
        process.kill()
        process.wait()
        assert path.exists()
        started = time.monotonic()
        with locked(path, FREE, owner="me"):
            assert time.monotonic() - started < PATIENCE
    assert not path.exists()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SAY_AFTER_SECONDS", 0.0)


def test_who_waits_is_told_once_and_only_after_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Wait, float]] = []
    started = time.monotonic()
    assert locks.SAY_AFTER_SECONDS == 2.0
    monkeypatch.setattr(locks, "SAY_AFTER_SECONDS", 0.3)

    def on_wait(wait: Wait) -> None:
        told.append((wait, time.monotonic() - started))

    with (
        held_by_another(tmp_path / "lock", seconds=1.0) as process,
        locked(tmp_path / "lock", Patience("the lock", on_wait), owner="me"),
    ):
        pass
    assert [wait.subject for wait, _ in told] == ["the lock"]
    assert told[0][0].holder == f"process {process.pid} (gc)"
    assert told[0][1] >= 0.3


@pytest.mark.usefixtures("_impatient")
def test_who_waits_is_told_since_when(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    wait = told_of(tmp_path / "lock")
    assert wait.since is not None
    assert -PATIENCE < (wait.since - before).total_seconds() < PATIENCE


def told_of(path: Path, *, before: str = "") -> Wait:
    """Return what one is told who waits for a lock that another process has."""
    told: list[Wait] = []
    if before:
        path.write_text(before)
    with held_by_another(path) as process:
        patience = Patience("the lock", told.append, timeout=0.1)
        with pytest.raises(LockTimeoutError), locked(path, patience, owner="me"):
            pytest.fail("got a lock that another process holds")
        assert told[0].holder.startswith(f"process {process.pid} (")
    return told[0]


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("left_behind", ["process 1 (pull alpine)", "nonsense", "\x00" * 500])
def test_what_a_killed_process_left_in_the_file_misleads_nobody(left_behind: str, tmp_path: Path) -> None:
    assert told_of(tmp_path / "lock", before=left_behind).holder.endswith(" (gc)")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("left_behind", ["", "process 1 (pull alpine)"])
def test_a_holder_that_could_not_write_who_it_is_is_known_to_the_kernel(left_behind: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(left_behind)
    told: list[Wait] = []
    with another_python(HOLDS_UNSIGNED, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        patience = Patience("the lock", told.append, timeout=0)
        with pytest.raises(LockTimeoutError), locked(path, patience, owner="me"):
            pytest.fail("got a lock that another process holds")
    program = Path(sys.executable).name
    assert told == [Wait("the lock", f"process {process.pid} ({program})", None)]


@pytest.mark.usefixtures("_impatient")
def test_a_holder_whom_nobody_knows_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "process_that_locks", lambda _: None)  # as of another container's
    path = tmp_path / "lock"
    told: list[Wait] = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    assert fsutil.try_lock(descriptor)
    with pytest.raises(LockTimeoutError), locked(path, Patience("the lock", told.append, timeout=0), owner="me"):
        pytest.fail("got a lock that is taken")
    os.close(descriptor)
    assert told == [Wait("the lock", "another process", None)]


@pytest.mark.usefixtures("_impatient")
def test_who_need_not_wait_is_told_nothing(tmp_path: Path) -> None:
    def told(*_: object) -> None:
        pytest.fail("there is nobody to wait for")

    with locked(tmp_path / "lock", Patience("the lock", told, told), owner="me"):
        pass


def test_who_cannot_have_a_lock_at_once_is_called_once(tmp_path: Path) -> None:
    called: list[None] = []
    with (
        held_by_another(tmp_path / "lock", seconds=0.3),
        locked(tmp_path / "lock", Patience("the lock", on_busy=lambda: called.append(None)), owner="me"),
    ):
        assert called == [None]


def test_a_cancelled_wait_ends_and_leaves_the_lock_to_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    cancellation = Cancellation()
    threading.Timer(0.2, cancellation.cancel).start()
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with held_by_another(path) as process:
        with pytest.raises(CancelledError), locked(path, Patience("the lock", cancellation=cancellation), owner="me"):
            pytest.fail("got a lock that another process holds")
        assert process.poll() is None
        assert path.exists()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_a_wait_that_takes_too_long_says_for_whom_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    started = time.monotonic()
    with (
        held_by_another(path),
        pytest.raises(LockTimeoutError, match=r"process \d+ \(gc\)"),
        locked(path, Patience("the lock", timeout=0.2), owner="me"),
    ):
        pytest.fail("got a lock that another process holds")
    assert time.monotonic() - started >= 0.2
    with locked(path, Patience("the lock", timeout=0), owner="me"):
        pass


def test_a_lock_is_free_and_its_file_gone_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), locked(path, FREE, owner="me"):
        raise ZeroDivisionError
    assert not path.exists()


@pytest.mark.parametrize(
    ("owner", "step"), [(locks, "try_lock"), (os, "ftruncate"), (os, "pwrite"), (Path, "unlink"), (os, "close")]
)
def test_a_lock_is_free_and_its_file_gone_after_an_interrupt_at_any_step(
    owner: object, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.lock"
    interrupt_first_call(monkeypatch, owner, step)
    with pytest.raises(KeyboardInterrupt), locked(path, FREE, owner="me"):
        pass
    assert not path.exists()
    with locked(path, FREE, owner="me"):
        assert path.exists()


def test_an_interrupted_wait_leaves_the_lock_to_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.lock"
    with locked(path, FREE, owner="me"):
        interrupt_first_call(monkeypatch, time, "sleep")
        with pytest.raises(KeyboardInterrupt), locked(path, FREE, owner="another"):
            pass
        assert path.read_text() == "me"


def test_a_lock_is_free_when_its_file_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    path = tmp_path / "lock"
    with locked(path, FREE, owner="first"):
        monkeypatch.setattr(Path, "unlink", read_only)
    monkeypatch.undo()
    assert path.exists()
    with locked(path, Patience("the lock", cancellation=_cancelled_in(PATIENCE)), owner="second"):
        assert path.read_text() == "second"


def _cancelled_in(seconds: float) -> Cancellation:
    cancellation = Cancellation()
    timer = threading.Timer(seconds, cancellation.cancel)
    timer.daemon = True
    timer.start()
    return cancellation


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_a_lock_file_is_private(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with locked(tmp_path / "lock", FREE, owner="me") as descriptor:
            assert stat.S_IMODE(os.fstat(descriptor).st_mode) & ~0o600 == 0
    finally:
        os.umask(before)


FILLS_THE_DISK = """
import sys
from pathlib import Path
from micropod_img.locks import Patience, locked
directory = Path(sys.argv[1])
(directory / "lock").touch()
try:
    with (directory / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(1024)):
            pass
except OSError as error:
    print(error.strerror)
with locked(directory / "lock", Patience("the lock"), owner="rmi"):
    print("locked")
"""


def test_a_full_disk_keeps_nobody_from_a_lock(tmp_path: Path) -> None:
    mounts = [f"-t tmpfs -o size=64k none {shlex.quote(str(tmp_path))}"]
    done = run_with_mounts(FILLS_THE_DISK, tmp_path, mounts=mounts)
    assert (done.stdout, done.stderr) == ("No space left on device\nlocked\n", "")


TAKES_TURNS = """
import os, sys, time
from pathlib import Path
from micropod_img import locks
from micropod_img.locks import Patience, locked
locks._SHORTEST_POLL_SECONDS = locks._LONGEST_POLL_SECONDS = 0.0005
lock, inside, counter = (Path(word) for word in sys.argv[1:4])
turns = 0
deadline = time.monotonic() + float(sys.argv[4])
while time.monotonic() < deadline:
    with locked(lock, Patience("the lock"), owner=str(os.getpid())):
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        counter.write_text(str(int(counter.read_text()) + 1))
        inside.unlink()
    turns += 1
print(turns)
"""


def test_a_lock_file_that_comes_and_goes_still_lets_in_one_at_a_time(tmp_path: Path) -> None:
    lock, inside, counter = tmp_path / "lock", tmp_path / "inside", tmp_path / "counter"
    counter.write_text("0")
    argv = [sys.executable, "-c", TAKES_TURNS, *map(str, (lock, inside, counter, 1.2))]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) for _ in range(5)]
    turns = [int(process.communicate(timeout=60)[0] or -1_000_000) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert sum(turns) == int(counter.read_text())
    assert sum(turns) > 100
    assert not lock.exists()


def test_killed_holders_let_in_one_at_a_time_too(tmp_path: Path) -> None:
    lock, inside, counter = tmp_path / "lock", tmp_path / "inside", tmp_path / "counter"
    counter.write_text("0")
    script = TAKES_TURNS.replace("inside.unlink()", "inside.unlink(); turns % 7 == 6 and os.kill(os.getpid(), 9)")
    argv = [sys.executable, "-c", script, *map(str, (lock, inside, counter, 60))]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=CHECKOUT) for _ in range(6)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 6
    assert int(counter.read_text()) == 6 * 7


# --- locks on directories


@pytest.mark.usefixtures("_impatient")
def test_a_directory_is_locked_by_one_or_shared_by_many(tmp_path: Path) -> None:
    told: list[Wait] = []
    patience = Patience("the directory", told.append, timeout=0)
    with (
        locked_directory(tmp_path, patience, shared=True),
        locked_directory(tmp_path, patience, shared=True),
        pytest.raises(LockTimeoutError),
        locked_directory(tmp_path, patience),
    ):
        pytest.fail("two hold what one may hold")
    with locked_directory(tmp_path, patience):
        pass
    assert [(wait.subject, wait.since) for wait in told] == [("the directory", None)]
    assert told[0].holder.startswith(f"process {os.getpid()} (")


def test_a_cancelled_wait_for_a_directory_ends(tmp_path: Path) -> None:
    patience = Patience("the directory", cancellation=_cancelled_in(0.1))
    with locked_directory(tmp_path, FREE), pytest.raises(CancelledError), locked_directory(tmp_path, patience):
        pytest.fail("two hold what one may hold")
