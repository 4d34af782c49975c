from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from micropod_img.store.layout import StoreLayout
from tests.support.images import image
from tests.support.layers import layer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command_line import CommandLine
    from tests.support.scripted import ScriptedRegistry

BASE = layer({"etc/motd": b"welcome\n"})


@pytest.fixture
def app(scripted: ScriptedRegistry, crane: Path) -> str:
    """The name of an image of one layer, for linux/amd64."""
    assert crane
    return scripted.serve("some/app", "1", image([BASE]))


def pull(micropod: CommandLine, *arguments: str) -> list[str]:
    said = micropod("pull", "--platform=linux/amd64", *arguments)
    assert said.status == 0
    return said.err.splitlines()


def test_progress_is_plain_lines_without_a_terminal(
    micropod: CommandLine, app: str, scripted: ScriptedRegistry
) -> None:
    asking, fetching, fetched = pull(micropod, app)
    assert asking == f"{app}: asking {scripted.host}"
    assert re.fullmatch(rf"{app}: fetching 1 of 1 layers, \d+ B", fetching)
    assert re.fullmatch(rf"{app}: fetched \d+ B in .*", fetched)


def test_progress_is_json_lines_if_asked(micropod: CommandLine, app: str) -> None:
    events = [json.loads(line) for line in pull(micropod, "--progress=json", app)]
    assert [event["event"] for event in events][:2] == ["resolving", "fetch-started"]
    assert events[-1]["event"] == "finished"
    assert {event["ref"] for event in events} == {app}


def test_stderr_is_json_lines_to_the_end(micropod: CommandLine, scripted: ScriptedRegistry, crane: Path) -> None:
    assert crane
    absent = scripted.reference("nobody/has", "this")
    said = micropod("pull", "--progress=json", absent)
    events = [json.loads(line) for line in said.err.splitlines()]
    assert [event["event"] for event in events] == ["resolving", "failed", "error"]
    assert events[-1]["error"]["exit_status"] == said.status == 3


@pytest.mark.parametrize("options", [["--progress=none"], ["-q"], ["-q", "--progress=none"]])
def test_there_is_no_progress_if_none_is_wanted(micropod: CommandLine, app: str, options: list[str]) -> None:
    assert pull(micropod, *options, app) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--progress=none"], True), (["--progress=plain"], True), (["-q"], False), (["-q", "--progress=none"], False)],
)
def test_what_users_should_know_is_told_unless_they_want_quiet(
    micropod: CommandLine,
    app: str,
    options: list[str],
    told: bool,  # noqa: FBT001
) -> None:
    pull(micropod, app)
    StoreLayout(micropod.root).blob(BASE.digest).unlink()
    warnings = [line for line in pull(micropod, *options, app) if line.startswith("micropod-img: warning: ")]
    assert bool(warnings) == told
