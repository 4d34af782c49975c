from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from micropod_img.cli.main import main
from micropod_img.cli.signals import Interrupted, interruptible
from tests.cli.command_line import PROGRAM, environment
from tests.support.faults import BLOBS, on, stalled
from tests.support.images import image
from tests.support.layers import random_layer
from tests.support.processes import PROMPTLY, processes_that_mention, soon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted import ScriptedRegistry

KIB = 1 << 10


@pytest.fixture
def stalled_pulls(scripted: ScriptedRegistry, crane: Path) -> list[str]:
    """Names of two images of which never more than a part comes."""
    assert crane
    names = [scripted.serve(f"slow/app{seed}", "1", image([random_layer(1 << 20, seed=seed)])) for seed in (1, 2)]
    scripted.faults = (on(BLOBS, stalled(at=100 * KIB)),)
    return names


def start(store_root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, "--root", str(store_root), "pull", "--platform=linux/amd64", *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("several", [False, True], ids=["one reference", "several references"])
def test_a_signal_ends_a_pull_with_nothing_left_behind(
    number: signal.Signals,
    status: int,
    several: bool,  # noqa: FBT001
    store_root: Path,
    stalled_pulls: list[str],
) -> None:
    refs = stalled_pulls if several else stalled_pulls[:1]
    with start(store_root, "--json", *refs) as process:
        assert soon(lambda: len(list(store_root.glob("tmp/*/*/blobs/sha256/*"))) >= len(refs))
        started = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=PROMPTLY)
    assert time.monotonic() - started < PROMPTLY / 2
    assert process.returncode == status
    assert "micropod-img: interrupted; nothing half-done was left behind\n" in err
    document = json.loads(out)
    assert (document["ok"], document["data"]) == (False, None)
    assert document["error"]["code"] == "interrupted"
    assert document["error"]["exit_status"] == status
    assert list((store_root / "tmp").iterdir()) == []
    assert list((store_root / "locks").glob("blob-*")) == []
    assert soon(lambda: not processes_that_mention(str(store_root)))


def test_a_second_signal_does_not_break_into_the_clean_up(store_root: Path, stalled_pulls: list[str]) -> None:
    with start(store_root, *stalled_pulls) as process:
        assert soon(lambda: bool(list(store_root.glob("tmp/*/*/blobs/sha256/*"))))
        for _ in range(20):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PROMPTLY)
    assert process.returncode in {130, 143}
    assert "Traceback" not in err
    assert list((store_root / "tmp").iterdir()) == []


def test_a_signal_that_the_parent_wants_ignored_stays_ignored(store_root: Path, stalled_pulls: list[str]) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(store_root, stalled_pulls[0])
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert soon(lambda: bool(list(store_root.glob("tmp/*/*/blobs/sha256/*"))))
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PROMPTLY)
    assert process.returncode == 143


def test_no_signal_before_or_after_shows_a_traceback(store_root: Path) -> None:
    """Signals at every moment of a short command; before Python runs our code, they are Python's and the kernel's."""
    for delay in range(8):
        with start(store_root, "--policy=never", "absent") as process:
            time.sleep(0.06 + delay * 0.01)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=PROMPTLY)
        assert process.returncode in {3, 143, -signal.SIGTERM}
        assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_exception_inside_the_block_and_as_before_behind_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, interruptible():
        signal.raise_signal(number)
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is before


def test_signals_that_follow_at_once_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    with interruptible():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(time, "monotonic", lambda: 1e9)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_at_the_very_end_is_a_status_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("micropod_img.cli.main._status", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert main(["version"]) == 143
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_that_became_another_exception_is_one_still(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def importing(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Interrupted as error:
            raise RuntimeError("Error calling __set_name__") from error

    monkeypatch.setattr("micropod_img.cli.main._run", importing)
    assert main(["version"]) == 143
    assert capsys.readouterr().err == "micropod-img: interrupted; nothing half-done was left behind\n"


def test_an_interrupt_that_python_drops_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    class Dropping:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        dropping = Dropping()
        del dropping  # what its destructor raises goes nowhere
        time.sleep(PROMPTLY)

    with interruptible() as received, pytest.raises(Interrupted) as caught:
        work()
    assert caught.value.signal_number == received.number == signal.SIGTERM
    assert capsys.readouterr().err == ""
