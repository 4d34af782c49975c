from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import run as run_module
from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.run import (
    Child,
    ChildTimeoutError,
    Completed,
    OutputLimitError,
    ProgramNotFoundError,
    replace_process,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENV = {"PATH": "/usr/bin:/bin"}
MIB = 1 << 20
PROMPTLY = 5.0  # seconds; a busy machine is slow, and what these tests guard against takes for ever


def sh(script: str, *, stdin: bytes | None = None, timeout: float | None = 30, stdout_limit: int = MIB) -> Completed:
    return run(["/bin/sh", "-c", script], env=ENV, stdin=stdin, timeout=timeout, stdout_limit=stdout_limit)


def is_gone(pid: int) -> bool:
    """Whether a process ends soon; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + PROMPTLY
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PROMPTLY
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextlib.contextmanager
def takes_at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@contextlib.contextmanager
def another_python(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process of its own, which the test may kill; its lines come through a pipe."""
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) as process:
        try:
            yield process
        finally:
            process.kill()


def test_status_and_output_are_what_the_child_left() -> None:
    assert sh("echo out; echo err >&2; exit 3") == Completed(status=3, stdout=b"out\n", stderr="err\n")


def test_a_child_that_a_signal_ended_has_its_negative_as_status() -> None:
    assert sh("kill -TERM $$").status == -signal.SIGTERM


def test_stderr_that_is_not_utf_8_is_still_text() -> None:
    assert sh(r"printf 'a\377b' >&2").stderr == "a\N{REPLACEMENT CHARACTER}b"


def test_words_reach_the_program_as_they_are() -> None:
    words = ["--help", "-v", "", "a b", "$(id)", "*", "\n", "é"]
    shown = run([sys.executable, "-c", "import sys; print(sys.argv[1:])", *words], env=ENV)
    assert shown.stdout.decode().strip() == str(words)


@pytest.mark.parametrize("env", [{}, {"A": "1", "EMPTY": "", "B": "line\nline"}], ids=["empty", "some"])
def test_the_environment_is_what_was_given_and_nothing_else(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "hunter2")
    printed = run(["/usr/bin/env", "-0"], env=env).stdout.decode()
    assert dict(line.split("=", 1) for line in printed.split("\0") if line) == env


def test_stdin_is_dev_null_unless_bytes_are_given() -> None:
    assert sh("readlink /proc/self/fd/0").stdout == b"/dev/null\n"


@pytest.mark.parametrize("size", [0, 1, MIB], ids=["nothing", "a byte", "more than a pipe holds"])
def test_bytes_for_stdin_arrive_whole_and_end(size: int) -> None:
    content = os.urandom(size)
    assert run(["/bin/cat"], env=ENV, stdin=content, stdout_limit=MIB, timeout=30).stdout == content


def test_a_child_that_does_not_read_its_stdin_may_end_well() -> None:
    assert sh("exit 0", stdin=bytes(MIB)).status == 0


def test_a_child_that_never_reads_its_stdin_still_runs_out_of_time() -> None:
    with takes_at_most(PROMPTLY), pytest.raises(ChildTimeoutError):
        sh("sleep 60", stdin=bytes(MIB), timeout=0.2)


def test_the_working_directory_is_the_one_given(tmp_path: Path) -> None:
    assert run(["/bin/pwd"], env=ENV, cwd=tmp_path).stdout.decode().strip() == str(tmp_path)


def test_a_child_leads_a_process_group_so_that_a_terminal_interrupts_only_us() -> None:
    shown = run([sys.executable, "-c", "import os; print(os.getpid() == os.getpgrp() != os.getppid())"], env=ENV)
    assert shown.stdout == b"True\n"


def test_a_child_gets_no_open_file_but_those_passed(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("wb") as secret, (tmp_path / "passed").open("wb") as passed:
        os.set_inheritable(secret.fileno(), True)
        shown = run(["/bin/ls", "-l", "/proc/self/fd"], env=ENV, pass_fds=(passed.fileno(),)).stdout.decode()
    assert "/passed" in shown
    assert "/secret" not in shown


def test_many_children_leave_no_descriptor_open() -> None:
    sh("true", stdin=b"first")
    before = descriptors()
    for _ in range(10):
        sh("echo; echo >&2", stdin=b"x")
        with pytest.raises(ChildTimeoutError):
            sh("sleep 60", timeout=0.01)
    assert soon(lambda: descriptors() <= before)


def test_output_up_to_the_limit_is_whole() -> None:
    assert sh("head -c 1000 /dev/zero", stdout_limit=1000).stdout == bytes(1000)


def test_one_byte_over_the_limit_is_an_error_also_when_the_child_ends_well() -> None:
    with pytest.raises(OutputLimitError) as raised:
        sh("head -c 1001 /dev/zero", stdout_limit=1000)
    assert raised.value.args == (1000,)


def test_a_flood_is_ended_quickly() -> None:
    with takes_at_most(PROMPTLY), Child(["/usr/bin/yes"], env=ENV, stdout_limit=1000) as child:
        with pytest.raises(OutputLimitError):
            child.wait(60)
        assert len(child.completed().stdout) == 1000
        assert child.completed().status != 0


def test_a_flood_of_complaints_is_cut_and_no_error() -> None:
    completed = sh("head -c 2000000 /dev/zero | tr '\\0' e >&2; echo done")
    assert completed.stdout == b"done\n"
    assert set(completed.stderr) == {"e"}
    assert len(completed.stderr) <= MIB


def test_a_child_whose_time_is_over_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with takes_at_most(PROMPTLY), pytest.raises(ChildTimeoutError) as raised:
        sh(f"sleep 60 & echo $! >>{pids}; (sleep 61 & echo $! >>{pids}; wait) & echo $$ >>{pids}; wait", timeout=0.5)
    assert raised.value.args == (0.5,)
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 3
    assert all(is_gone(pid) for pid in started)


def test_a_cancelled_child_is_ended_at_once() -> None:
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.cancel).start()
    with takes_at_most(PROMPTLY), pytest.raises(CancelledError):
        run(["/bin/sleep", "60"], env=ENV, cancellation=cancellation)


def test_a_child_that_ended_is_not_waited_for_while_its_descendant_holds_the_pipes() -> None:
    with takes_at_most(PROMPTLY):
        completed = sh("sleep 60 & echo $!; exit 4", timeout=None)
    assert completed.status == 4
    os.kill(int(completed.stdout), signal.SIGKILL)  # it may live on: agents that a credential helper starts do


def test_a_descendant_that_left_the_process_group_cannot_hold_us_up(tmp_path: Path) -> None:
    escaped = tmp_path / "pid"
    try:
        with takes_at_most(PROMPTLY), pytest.raises(ChildTimeoutError):
            sh(f"setsid sh -c 'echo $$ >{escaped}; exec sleep 60' & wait", timeout=0.5)
    finally:
        os.kill(int(escaped.read_text()), signal.SIGKILL)


def test_a_child_is_ended_and_reaped_when_its_block_ends() -> None:
    with Child(["/bin/sleep", "60"], env=ENV) as child:
        pid = child._process.pid
        assert not child.wait(0.01)
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_whose_pipes_cannot_be_read_is_not_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **kwargs))  # type: ignore[call-overload]
        return started[0]

    def no_more_threads(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(subprocess, "Popen", noted)
    monkeypatch.setattr(threading.Thread, "start", no_more_threads)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Child(["/bin/sleep", "60"], env=ENV)
    assert started[0].returncode == -signal.SIGKILL


def test_ending_a_child_that_somebody_else_reaped_hits_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "killpg", lambda pid, _: pytest.fail(f"process group {pid} may be anybody's by now"))
    with Child(["/bin/true"], env=ENV) as child:
        os.waitpid(child._process.pid, 0)


@pytest.mark.parametrize("kind", ["missing", "directory", "not executable"])
def test_what_is_no_program_cannot_be_run(kind: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    if kind == "directory":
        program.mkdir()
    elif kind == "not executable":
        program.write_text("#!/bin/sh\n")
        program.chmod(0o644)
    with pytest.raises(ProgramNotFoundError) as raised:
        run([str(program)], env=ENV)
    assert raised.value.args == (str(program),)


RUNS_A_SLEEP = """
import os, sys
from micropod_img import run
if "without-setpriv" in sys.argv:
    run.SETPRIV = "/nonexistent"
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
import fcntl
fcntl.flock(lock, fcntl.LOCK_EX)
with run.Child(["/bin/sleep", "60"], env={}, pass_fds=(lock,)) as child:
    print(child._process.pid, flush=True)
    child.wait(60)
"""


def test_a_child_dies_when_we_are_killed_outright(tmp_path: Path) -> None:
    with another_python(RUNS_A_SLEEP, tmp_path / "lock") as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert soon(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
        parent.kill()
        assert is_gone(child)


def test_a_lock_that_a_child_was_given_is_held_until_the_child_is_gone_too(tmp_path: Path) -> None:
    with another_python(RUNS_A_SLEEP, tmp_path / "lock", "without-setpriv") as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        with (tmp_path / "lock").open("rb") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(child, signal.SIGKILL)
            assert soon(lambda: _can_lock(lock.fileno()))


def _can_lock(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def test_without_setpriv_programs_run_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SETPRIV", "/nonexistent/setpriv")
    assert sh("echo here").stdout == b"here\n"


BECOMES = """
import sys
from micropod_img.run import replace_process
replace_process(sys.argv[1:], env={"SEEN": "yes"})
"""


def test_a_replaced_process_has_the_output_and_status_of_the_other_program() -> None:
    with another_python(BECOMES, "/bin/sh", "-c", 'echo "$SEEN ${HOME:-no home}"; exit 7') as process:
        assert process.communicate(timeout=30)[0] == "yes no home\n"
        assert process.returncode == 7


def test_a_replaced_process_ends_silently_when_its_reader_goes_away() -> None:
    """Python ignores SIGPIPE, and what is ignored stays so across execve(2)."""
    with another_python(BECOMES, "/bin/cat", "/proc/self/status") as process:
        shown = dict(line.split(":\t", 1) for line in process.communicate(timeout=30)[0].splitlines() if ":\t" in line)
    assert int(shown["SigIgn"], 16) == 0


def test_a_process_is_not_replaced_by_a_program_that_is_missing(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGPIPE)
    with pytest.raises(ProgramNotFoundError):
        replace_process([str(tmp_path / "missing")], env={})
    assert signal.getsignal(signal.SIGPIPE) == before


def test_of_much_that_is_said_the_last_words_are_kept() -> None:
    talk = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo last words >&2; exit 3"
    completed = run(["/bin/sh", "-c", talk], env={"PATH": "/usr/bin:/bin"}, timeout=20)
    assert completed.status == 3
    assert completed.stderr.endswith("last words\n")
    assert len(completed.stderr) < 1_000_000


def test_a_child_has_no_terminal_to_ask_though_we_have_one() -> None:
    asking = "from micropod_img.run import run; print(run(['/bin/sh', '-c', ': </dev/tty'], env={}).status)"
    outer, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", f"open('/dev/tty').close(); {asking}"],
        stdin=inner,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - so it becomes its terminal
    ) as process:
        said, _ = process.communicate(timeout=60)
    for descriptor in (outer, inner):
        os.close(descriptor)
    assert (process.returncode, int(said) != 0) == (0, True)


def test_output_goes_to_a_file_where_one_is_given(tmp_path: Path) -> None:
    with (
        (tmp_path / "output").open("wb") as file,
        Child(
            ["/bin/sh", "-c", "printf much; echo said >&2"], env=ENV, stdout_to=file.fileno(), stdout_limit=1
        ) as child,
    ):
        assert soon(lambda: child.wait(0.05))
        assert child.completed() == Completed(0, b"", "said\n")
    assert (tmp_path / "output").read_bytes() == b"much"
