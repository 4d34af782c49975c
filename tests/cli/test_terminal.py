from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cli.command_line import process
from tests.cli.terminal import on_terminal
from tests.support.faults import BLOBS, dripping, on, stalled
from tests.support.images import image
from tests.support.layers import random_layer
from tests.support.uploads import Uploads

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted import ScriptedRegistry

ESCAPE = "\x1b["
LAYERS = [random_layer(1 << 20, seed=seed) for seed in (1, 2)]
KIB = 1 << 10


@pytest.fixture
def slow(scripted: ScriptedRegistry, crane: Path) -> str:
    """The name of an image whose layers take two seconds to come."""
    assert crane
    scripted.faults = (on(BLOBS, dripping(512 * KIB)),)
    return scripted.serve("slow/app", "1", image(LAYERS, platform="linux/amd64"))


def pull(store_root: Path, ref: str) -> list[str]:
    return ["--root", str(store_root), "pull", "--platform=linux/amd64", ref]


def test_a_terminal_shows_a_bar_for_the_whole_and_one_for_each_layer(store_root: Path, slow: str) -> None:
    with on_terminal(*pull(store_root, slow)) as terminal:
        for layer in LAYERS:
            terminal.wait_for(layer.digest[7:19])
        terminal.wait_for("of 2.0 MiB")
        terminal.wait_for("of 1.0 MiB")
        terminal.wait_for("iB/s")
        terminal.wait_for("00:0")
        assert terminal.end() == 0
    last = terminal.text.rpartition("\r")[2]
    assert f"{slow}:" in last
    assert "pulled, 2.0 MiB downloaded" in last
    assert "━" not in last


def test_nothing_of_who_is_asked_stays_on_a_narrow_terminal(store_root: Path, scripted: ScriptedRegistry) -> None:
    one = image([LAYERS[0]], platform="linux/amd64")
    scripted.serve("some/app", "1", one)
    with on_terminal(*pull(store_root, f"{scripted.host}/some/app@{one.digest}"), width=40) as terminal:
        assert terminal.end() == 0
    asked, *_ = terminal.text.removeprefix(f"\r{ESCAPE}K").partition("\r")
    assert asked.endswith("…")
    assert len(asked) == 39


def test_bars_hide_the_cursor_only_while_they_move(store_root: Path, slow: str) -> None:
    with on_terminal(*pull(store_root, slow)) as terminal:
        assert terminal.end() == 0
    assert terminal.text.rfind(f"{ESCAPE}?25h") > terminal.text.rfind(f"{ESCAPE}?25l") > 0


def test_bars_fit_a_low_and_narrow_terminal(store_root: Path, slow: str) -> None:
    with on_terminal(*pull(store_root, slow), width=40, height=5) as terminal:
        assert terminal.end() == 0
    assert "Traceback" not in terminal.text


def test_an_interrupt_wipes_the_bars_and_ends_in_order(store_root: Path, slow: str, scripted: ScriptedRegistry) -> None:
    scripted.faults = (on(BLOBS, stalled(at=200 * KIB)),)
    with on_terminal(*pull(store_root, slow)) as terminal:
        terminal.wait_for("of 2.0 MiB")
        terminal.type(b"\x03")
        assert terminal.end() == 130
    assert terminal.text.endswith("interrupted; nothing half-done was left behind\n")
    assert f"{ESCAPE}?25h" in terminal.text
    assert list((store_root / "tmp").iterdir()) == []


def test_an_image_that_is_here_shows_no_progress(store_root: Path, slow: str, scripted: ScriptedRegistry) -> None:
    scripted.faults = ()
    assert process(*pull(store_root, slow)).status == 0
    with on_terminal(*pull(store_root, slow), extra={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    assert re.fullmatch(rf"{slow}: here already \(.*\)\n", terminal.text)


def test_quiet_shows_just_the_digest_on_a_terminal_too(store_root: Path, slow: str) -> None:
    with on_terminal(*pull(store_root, slow), "-q") as terminal:
        assert terminal.end() == 0
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", terminal.text)


@pytest.mark.parametrize(
    ("extra", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "NO_COLOR is empty", "dumb"],
)
def test_colours_are_for_terminals_that_want_them(store_root: Path, extra: dict[str, str], coloured: bool) -> None:  # noqa: FBT001
    with on_terminal("--root", store_root, "images", extra=extra) as terminal:
        assert terminal.end() == 0
    assert (ESCAPE in terminal.text) == coloured
    with on_terminal("--root", store_root, "inspect", "absent", extra=extra) as terminal:
        assert terminal.end() == 3
    assert (ESCAPE in terminal.text) == coloured


def test_nothing_but_a_terminal_gets_colours(store_root: Path) -> None:
    said = process("--root", store_root, "images")
    assert ESCAPE not in said.out
    assert ESCAPE not in process("--root", store_root, "inspect", "absent").err


@pytest.mark.parametrize(("options", "extra"), [(["--progress=plain"], {}), ([], {"TERM": "dumb"})])
def test_plain_lines_can_be_had_on_a_terminal(
    store_root: Path, slow: str, options: list[str], extra: dict[str, str]
) -> None:
    with on_terminal(*pull(store_root, slow), *options, extra={"NO_COLOR": "1", **extra}) as terminal:
        assert terminal.end() == 0
    assert ESCAPE not in terminal.text
    assert f"{slow}: fetching 2 of 2 layers, 2.0 MiB\n" in terminal.text


def test_a_push_shows_one_bar_that_grows_while_a_layer_is_sent(
    store_root: Path, scripted: ScriptedRegistry, crane: Path
) -> None:
    assert crane
    ref = scripted.serve("some/app", "1", image(LAYERS, platform="linux/amd64"))
    assert process("--root", store_root, "pull", "--platform=linux/amd64", ref).status == 0
    uploads = Uploads(scripted)
    scripted.faults = (uploads, on("/uploads/", stalled(), method="PUT"))
    with on_terminal("--root", store_root, "push", ref, scripted.reference("other/app", "1")) as terminal:
        terminal.wait_for(f"pushing {scripted.host}/other/app:1")
        terminal.wait_for("of 2.0 MiB")
        scripted.faults = (uploads,)
        scripted.released.set()
        assert terminal.end() == 0, terminal.text
    assert "pushed, 2.0 MiB sent" in terminal.text.rpartition("\r")[2]
