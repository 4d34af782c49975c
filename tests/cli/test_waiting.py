"""What commands do while another process holds a lock that they need: they say for whom they wait, and can be ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from micropod_img import locks
from micropod_img.locks import Patience, locked, locked_directory
from tests.cli.command_line import PROGRAM, CommandLine, environment
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def of_the_index(root: Path) -> contextlib.AbstractContextManager[int]:
    return locked(root / "locks" / "index.lock", Patience("x"), owner=locks.signed("pull alpine"))


def of_a_pod(root: Path) -> contextlib.AbstractContextManager[int]:
    return locked_directory(root / "pods" / "web", Patience("x"))


def of_the_snapshots(root: Path) -> contextlib.AbstractContextManager[int]:
    return locked_directory(root / "snapshots", Patience("x"))


def of_the_login_file(root: Path) -> contextlib.AbstractContextManager[int]:
    return locked(root.parent / ".auth.json.lock", Patience("x"), owner=locks.signed("login"))


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Is set when somebody has found a lock taken; and nobody is patient."""
    event = threading.Event()
    a_while = locks._Waiting.a_while

    def noticed(waiting: locks._Waiting, descriptor: int) -> None:
        a_while(waiting, descriptor)
        event.set()

    monkeypatch.setattr(locks, "SAY_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(locks._Waiting, "a_while", noticed)
    return event


@contextlib.contextmanager
def held(
    lock: Callable[[Path], contextlib.AbstractContextManager[int]], root: Path, waited: threading.Event
) -> Iterator[None]:
    """Let another thread hold a lock until it was waited for; for the one who waits that is as good as a process."""
    has = threading.Event()
    waited.clear()

    def hold() -> None:
        with lock(root):
            has.set()
            waited.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert has.wait(60)
        yield
    finally:
        waited.set()
        holder.join()


@pytest.fixture
def image(micropod: CommandLine, ref: str) -> str:
    """An image that is here, with a pod of it."""
    assert micropod("pod", "create", ref, "--id=web").status == 0
    return ref


@pytest.mark.parametrize(
    ("lock", "subject", "command"),
    [
        (of_the_index, "the index", ["rmi", "--force", "REF"]),
        (of_the_index, "the index", ["tag", "REF", "other"]),
        (of_the_index, "the index", ["gc"]),
        (of_the_index, "the index", ["pull", "--policy=always", "--progress=plain", "REF"]),
        (of_the_index, "the index", ["pull", "--policy=always", "--progress=none", "REF"]),
        (of_a_pod, "pod web", ["pod", "rm", "web"]),
        (of_a_pod, "pod web", ["pod", "umount", "web"]),
        (of_a_pod, "pod web", ["pod", "mount", "web"]),
        (of_the_snapshots, "the list of snapshots in use", ["gc"]),
        (of_the_snapshots, "the list of snapshots in use", ["pod", "create", "--progress=plain", "--id=b", "REF"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_a_command_says_for_whom_it_waits(
    lock: Callable[[Path], contextlib.AbstractContextManager[int]],
    subject: str,
    command: list[str],
    *,
    image: str,
    micropod: CommandLine,
    waited: threading.Event,
) -> None:
    with held(lock, micropod.root, waited):
        said = micropod(*(image if word == "REF" else word for word in command))

    for pod in ("web", "b"):
        micropod("pod", "rm", pod)
    assert said.status == 0
    (line,) = (line for line in said.err.splitlines() if "waiting for" in line)
    assert re.search(rf"waiting for {subject}, which process {os.getpid()} \(.+\) has locked", line)


def test_a_logout_says_for_whom_it_waits(
    micropod: CommandLine, waited: threading.Event, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "auth.json").write_text('{"auths": {"registry.example.com": {"auth": "dTpw"}}}')
    monkeypatch.setenv("MICROPOD_AUTH_FILE", str(tmp_path / "auth.json"))

    with held(of_the_login_file, micropod.root, waited):
        said = micropod("logout", "registry.example.com")

    assert said.status == 0
    assert f"waiting for {tmp_path / 'auth.json'}, which process {os.getpid()} (login) has locked since " in said.err


def test_a_wait_is_an_event_among_others(image: str, micropod: CommandLine, waited: threading.Event) -> None:
    with held(of_the_index, micropod.root, waited):
        said = micropod("pull", "--policy=always", "--progress=json", image)

    micropod("pod", "rm", "web")
    waits = [event for event in map(json.loads, said.err.splitlines()) if event["event"] == "waiting"]
    assert [(event["ref"], event["subject"]) for event in waits] == [(image, "the index")]
    assert waits[0]["holder"] == f"process {os.getpid()} (pull alpine)"
    assert waits[0]["since"].endswith("+00:00")


def test_who_wants_to_hear_nothing_does_not(image: str, micropod: CommandLine, waited: threading.Event) -> None:
    with held(of_the_index, micropod.root, waited):
        said = micropod("-q", "tag", image, "other")

    micropod("pod", "rm", "web")
    assert (said.status, said.err) == (0, "")


def test_a_pull_waits_no_longer_than_it_may(image: str, micropod: CommandLine) -> None:
    with of_the_index(micropod.root):
        said = micropod("--json", "pull", "--policy=always", "--timeout=1s", image)

    micropod("pod", "rm", "web")
    error = said.document["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["exit_status"]) == ("locked", 9)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "command", [["rmi", "REF"], ["gc"], ["tag", "REF", "other"], ["pull", "--policy=always", "REF", "REF2"]]
)
def test_a_command_that_waits_can_be_ended(
    command: list[str], number: signal.Signals, status: int, ref: str, micropod: CommandLine
) -> None:
    micropod("pull", ref)
    micropod("tag", ref, f"{ref}-2")
    names = {"REF": ref, "REF2": f"{ref.rpartition(':')[0]}@{_digest(micropod, ref)}"}

    with of_the_index(micropod.root):
        argv = [*PROGRAM, f"--root={micropod.root}", *(names.get(word, word) for word in command)]
        with subprocess.Popen(argv, env=environment(), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            assert any("waiting for the index" in line for line in lines)
            process.send_signal(number)
            process.communicate(timeout=20)

    assert process.returncode == status
    wait_until(lambda: not any((micropod.root / "tmp").iterdir()))
    assert not any((micropod.root / "locks").iterdir())


def _digest(micropod: CommandLine, ref: str) -> str:
    return micropod("-q", "inspect", ref).out.strip()
