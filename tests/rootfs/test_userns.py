"""What an ordinary user's store has instead of root: each script is run by a real one, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.invoker import INVOKING_UID, invoking_uid
from micropod_img.rootfs import userns
from micropod_img.rootfs.subordinate_ids import IdRange, subordinate_ids
from micropod_img.store.layout import StoreLayout
from tests.support.ordinary_user import FIRST_SUBORDINATE_ID, UID, OrdinaryUser, ordinary_user
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTER = """
import json, os, subprocess, sys
from pathlib import Path
from micropod_img.errors import MicropodError
from micropod_img.rootfs import userns
from micropod_img.invoker import invoking_uid
from micropod_img.store.layout import StoreLayout

layout = StoreLayout(Path(sys.argv[1]))
mounted = layout.root.parent / "mounted"
entered = userns.enter(layout)
"""
MOUNT = (
    ENTER
    + """
mounted.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
(mounted / "file").write_text("still here")
"""
)
READ = ENTER + "print((mounted / 'file').read_text())"
TELL = (
    ENTER
    + """
holder = userns.find_holder(layout)
print(json.dumps({
    "new": entered.new, "notice": entered.notice, "holder": holder.pid, "uid": os.geteuid(), "gid": os.getegid(),
    "invoker": invoking_uid(), "cwd": os.getcwd(), "ids": Path("/proc/self/uid_map").read_text().split(),
}))
"""
)


@pytest.fixture
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as one:
        yield one


@pytest.fixture
def store(user: OrdinaryUser) -> Path:
    return user.home / "store"


def succeed(user: OrdinaryUser, script: str, *argv: str | Path) -> str:
    done = user.python(script, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def tell(user: OrdinaryUser, store: Path) -> dict[str, object]:
    told = json.loads(succeed(user, TELL, store))
    assert isinstance(told, dict)
    return told


def processes() -> list[int]:
    """What the user has running."""
    lines = run("ps", "-o", "pid=,stat=", "-u", str(UID)).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if "Z" not in line.split()[1]]


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while set(pids) & set(processes()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_ordinary_user_is_root_inside_with_their_subordinate_ids(user: OrdinaryUser, store: Path) -> None:
    told = tell(user, store)
    assert (told["uid"], told["gid"], told["invoker"]) == (0, 0, UID)
    assert told["ids"] == ["0", str(UID), "1", "1", str(FIRST_SUBORDINATE_ID), "65536"]
    assert told["notice"] is None


def test_the_working_directory_stays(user: OrdinaryUser, store: Path) -> None:
    assert tell(user, store)["cwd"] == str(user.home)


def test_what_one_command_mounts_the_next_one_finds(user: OrdinaryUser, store: Path) -> None:
    succeed(user, MOUNT, store)
    assert succeed(user, READ, store) == "still here"


def test_what_is_mounted_is_not_seen_outside(user: OrdinaryUser, store: Path) -> None:
    succeed(user, MOUNT, store)
    assert list((user.home / "mounted").iterdir()) == []


def test_the_second_command_uses_the_namespace_of_the_first(user: OrdinaryUser, store: Path) -> None:
    first, second = tell(user, store), tell(user, store)
    assert (first["new"], second["new"]) == (True, False)
    assert first["holder"] == second["holder"]


def test_each_store_has_a_namespace_of_its_own(user: OrdinaryUser, store: Path) -> None:
    assert tell(user, store)["holder"] != tell(user, user.home / "another")["holder"]


def test_many_commands_at_once_make_one_namespace(user: OrdinaryUser, store: Path) -> None:
    commands = [user.start(sys.executable, "-c", TELL, store) for _ in range(6)]
    outputs = [command.communicate(timeout=60) for command in commands]
    assert [errors for _, errors in outputs] == [""] * 6
    told = [json.loads(output) for output, _ in outputs]
    assert len({one["holder"] for one in told}) == 1
    assert sum(one["new"] for one in told) == 1
    assert len(processes()) == 1


def test_a_thread_that_has_ended_for_python_and_not_yet_for_the_kernel_is_waited_for(
    user: OrdinaryUser, store: Path
) -> None:
    """Starting the holder takes such threads; a destructor (pthread_key_create(3)) lets one take half a second."""
    lingering = """
import ctypes, threading
libc, key = ctypes.CDLL(None), ctypes.c_uint()
libc.pthread_key_create(ctypes.byref(key), libc.usleep)
thread = threading.Thread(target=lambda: libc.pthread_setspecific(key, ctypes.c_void_p(500_000)))
thread.start()
thread.join()
"""
    assert json.loads(succeed(user, lingering + TELL, store))["new"]


def test_a_namespace_whose_holder_was_killed_is_made_again(user: OrdinaryUser, store: Path) -> None:
    first = tell(user, store)
    os.kill(int(str(first["holder"])), signal.SIGKILL)
    wait_until_gone(int(str(first["holder"])))
    second = tell(user, store)
    assert second["new"]
    assert second["holder"] != first["holder"]


def test_another_process_that_has_the_holders_id_is_not_taken_for_it(user: OrdinaryUser, store: Path) -> None:
    first = tell(user, store)
    os.kill(int(str(first["holder"])), signal.SIGKILL)
    wait_until_gone(int(str(first["holder"])))
    record = store / "locks/namespace"
    _, *rest = record.read_text().split()
    with user.start("sleep", "60") as stranger:
        while not processes():
            time.sleep(0.01)
        record.write_text(" ".join([str(processes()[0]), *rest]))
        second = tell(user, store)
        assert second["new"]
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("content", ["", "torn", "1 2", "1 2 boot 3 4", "\x00\x00\x00\x00"])
def test_a_torn_record_does_not_lock_the_user_out(user: OrdinaryUser, store: Path, content: str) -> None:
    """As after a kill between the start of the holder and its record: nobody knows the process that has the lock."""
    first = tell(user, store)
    (store / "locks/namespace").write_text(content)
    second = tell(user, store)
    assert second["new"]
    assert second["holder"] != first["holder"]
    wait_until_gone(int(str(first["holder"])))


def test_who_reads_the_record_is_not_taken_for_an_unknown_holder(user: OrdinaryUser, store: Path) -> None:
    tell(user, store)
    record = store / "locks/namespace"
    record.write_text("torn")
    with user.start("sh", "-c", f"exec <{record} && echo open && exec sleep 60") as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        assert tell(user, store)["new"]
        assert reader.poll() is None
        reader.kill()


def test_the_holder_keeps_no_folder_no_pipe_and_no_terminal_busy(user: OrdinaryUser, store: Path) -> None:
    holder = Path("/proc", str(tell(user, store)["holder"]))
    assert (holder / "cwd").readlink() == Path("/")
    opened = {int(link.name): str(link.readlink()) for link in (holder / "fd").iterdir()}
    assert {opened.pop(number) for number in (0, 1, 2)} == {"/dev/null"}
    assert set(opened.values()) == {str(store / "locks/namespace")}
    session = (holder / "stat").read_text().rpartition(")")[2].split()[3]
    assert session != str(os.getsid(0))


def test_stop_ends_the_holder_and_its_mounts(user: OrdinaryUser, store: Path) -> None:
    succeed(user, MOUNT, store)
    succeed(user, ENTER + "userns.stop(layout)", store)
    assert tell(user, store)["new"]
    assert user.python(READ, store).returncode != 0


def test_files_of_subordinate_ids_are_made_and_removed_inside_only(user: OrdinaryUser, store: Path) -> None:
    make = (
        ENTER + "d = layout.root.parent / 'd'; d.mkdir(); (d / 'f').touch(); os.chown(d / 'f', 7, 8); os.chown(d, 7, 8)"
    )
    succeed(user, make, store)
    status = (user.home / "d/f").stat()
    assert (status.st_uid, status.st_gid) == (FIRST_SUBORDINATE_ID + 6, FIRST_SUBORDINATE_ID + 7)
    assert user.run("rm", "-rf", user.home / "d").returncode != 0
    succeed(
        user,
        ENTER + "from micropod_img.store.trees import remove_tree; remove_tree(layout.root.parent / 'd')",
        store,
    )
    assert not (user.home / "d").exists()


def test_without_subordinate_ids_there_is_one_id_and_a_sentence_about_it() -> None:
    with ordinary_user(subordinate_ids=False) as user:
        first, second = tell(user, user.home / "store"), tell(user, user.home / "store")
    assert first["ids"] == ["0", str(UID), "1"]
    assert first["notice"] == userns.COST_OF_ONE_ID
    assert second["notice"] is None
    assert userns.COST_OF_ONE_ID.count(". ") == 0


def test_a_process_with_threads_is_told_why_it_cannot_enter(user: OrdinaryUser, store: Path) -> None:
    threaded = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    script = threaded + ENTER.replace(
        "entered = userns.enter(layout)",
        """
try:
    userns.enter(layout)
except MicropodError as error:
    print(error.exit_status, error.code, error.message, os.geteuid())
""",
    )
    told = succeed(user, script, store)
    assert told.startswith("9 threads this process has 2 threads")
    assert told.endswith(f" {UID}")


def test_root_enters_nothing(tmp_path: Path) -> None:
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    try:
        assert userns.enter(StoreLayout(tmp_path / "store")) == userns.Entered(new=False, notice=None)
    finally:
        event.set()
        thread.join()
    assert not (tmp_path / "store").exists()


def test_where_user_namespaces_are_not_allowed_the_error_names_the_settings(user: OrdinaryUser, store: Path) -> None:
    failing = user.home / "unshare"
    failing.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    failing.chmod(0o755)
    script = ENTER.replace(
        "entered = userns.enter(layout)",
        f"""
found = userns.find_program
userns.find_program = lambda name, package: {str(failing)!r} if name == "unshare" else found(name, package=package)
try:
    userns.enter(layout)
except MicropodError as error:
    print(error.exit_status, error.code, error.hint, error.detail)
""",
    )
    told = succeed(user, script, store)
    assert told.startswith("8 no-user-namespace")
    assert "max_user_namespaces" in told
    assert "Operation not permitted" in told


def test_a_variable_that_survived_sudo_does_not_make_root_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INVOKING_UID, str(UID))
    assert invoking_uid() == os.geteuid()


def test_the_ranges_of_a_user_are_those_of_name_and_number(tmp_path: Path) -> None:
    lines = ["root:100000:10", "0:200000:20", "rooty:1:1", "root:x:1", "root:5", "root:300000:0", "", "#", "0:400000:1"]
    (tmp_path / "subuid").write_text("\n".join(lines))
    expected = (IdRange(100000, 10), IdRange(200000, 20), IdRange(400000, 1))
    assert subordinate_ids("subuid", 0, directory=tmp_path) == expected


def test_where_no_file_is_there_are_no_ranges(tmp_path: Path) -> None:
    assert subordinate_ids("subgid", 0, directory=tmp_path) == ()


def test_a_holder_that_ends_while_it_is_joined_is_a_conflict_to_try_again(user: OrdinaryUser, store: Path) -> None:
    script = ENTER.replace(
        "entered = userns.enter(layout)",
        """
try:
    userns._join(userns.NamespaceHolder(os.getpid(), 0, "", 1))
except MicropodError as error:
    print(error.code, error.retryable)
""",
    )
    assert succeed(user, script, store) == "namespace-gone True"
