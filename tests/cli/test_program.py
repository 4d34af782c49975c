from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.cli.program import COMMANDS
from tests.cli.command_line import process

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command_line import CommandLine


def test_help_lists_every_command_with_a_line_about_it(micropod: CommandLine) -> None:
    said = micropod.bare("--help")
    assert said.status == 0
    listed = dict(line.split(maxsplit=1) for line in said.out.partition("Commands:\n")[2].splitlines())
    assert tuple(listed) == COMMANDS
    assert not [text for text in listed.values() if text.endswith("...")]


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "crane"])
def test_every_command_has_help_with_the_global_options(micropod: CommandLine, command: str, option: str) -> None:
    said = micropod.bare(command, option)
    assert said.status == 0
    assert said.out.startswith(f"Usage: micropod-img {command} ")
    assert not set("{}<>") & set(said.out)
    for name in ("--root", "--config", "--json", "--quiet", "--verbose", "--help"):
        assert f"{name} " in said.out or f"{name}\n" in said.out
    assert said.err == ""


def test_help_of_a_command_is_had_without_its_arguments_and_whatever_they_are(micropod: CommandLine) -> None:
    assert micropod.bare("pull", "UPPER", "--jobs", "many", "--help").status == 0


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--json"], '{\n  "schema": 1,\n  "command": "images",'),
        (["-q"], ""),
        (["--quiet"], ""),
        (["-v"], "REFERENCE"),
        ([], "REFERENCE"),
        (["-qv", "--json"], '{\n  "schema": 1,'),
    ],
)
def test_global_options_stand_before_a_command_or_behind_it(
    micropod: CommandLine, options: list[str], expected: str, where: str
) -> None:
    words = [*options, "images"] if where == "before" else ["images", *options]
    said = micropod(*words)
    assert said.out.startswith(expected)
    assert (said.out == "") == (expected == "")
    assert said.status == 0


@pytest.mark.parametrize("where", ["before", "behind", "both"])
def test_the_root_that_stands_last_is_the_one(micropod: CommandLine, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    store, file = f"--root={micropod.root}", f"--root={tmp_path / 'file'}"
    words = {"before": [file, "images"], "behind": ["images", file], "both": [store, "images", file]}[where]
    assert micropod.bare(*words).status == 10


def test_the_configuration_is_read_from_where_the_option_says(micropod: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("jobs = 0\n")
    said = micropod("images", "--config", str(tmp_path / "config.toml"))
    assert said.status == 2
    assert "jobs must be a whole number above 0" in said.err


def test_the_version_option_says_what_the_command_says(micropod: CommandLine, crane: Path) -> None:
    assert crane
    said = micropod.bare("version")
    assert said.out.splitlines()[0].startswith("micropod-img ")
    assert [line.split()[0] for line in said.out.splitlines()] == ["micropod-img", "crane", "umoci"]
    assert micropod.bare("--version") == said
    assert micropod.bare("--version", "--json").document["command"] == "version"


def test_the_version_option_wins_over_a_command(micropod: CommandLine, crane: Path) -> None:
    assert crane
    assert micropod.bare("--version", "rmi", "everything") == micropod.bare("version")


def test_a_command_that_is_misspelt_is_guessed(micropod: CommandLine) -> None:
    said = micropod.bare("imges")
    assert (said.status, said.out) == (2, "")
    assert said.err == "micropod-img: there is no command 'imges'\nhint: did you mean images?\n"


def test_no_command_is_a_usage_error_that_says_what_to_do(micropod: CommandLine) -> None:
    said = micropod.bare()
    assert (said.status, said.out) == (2, "")
    assert "micropod-img --help" in said.err


def test_what_cannot_be_parsed_is_told_without_control_characters(micropod: CommandLine) -> None:
    said = micropod.bare("pull", "--\x1b[31mred")
    assert said.status == 2
    assert "\x1b" not in said.err


def test_the_module_runs_the_program() -> None:
    said = process("--help")
    assert said.status == 0
    assert said.out.startswith("Usage: micropod-img ")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("micropod-img in", ["inspect"]),
        ("micropod-img pull --pol", ["--policy"]),
        ("micropod-img pull --policy ne", ["newer", "never"]),
        ("micropod-img pull --progress ", ["auto", "plain", "json", "none"]),
    ],
)
def test_a_shell_is_offered_completions(words: str, offered: list[str]) -> None:
    last = len(words.split(" ")) - 1
    said = process(extra={"_MICROPOD_IMG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(last)})
    assert said.out.split() == offered


def test_a_shell_is_offered_what_is_in_the_store(micropod: CommandLine, ref: str) -> None:
    assert micropod("pull", "-q", ref).status == 0
    words = f"micropod-img --root {micropod.root} inspect {ref[:12]}"
    extra = {"_MICROPOD_IMG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
    assert process(extra=extra).out.split() == [ref]


def test_a_shell_gets_the_script_that_asks_for_completions() -> None:
    said = process(extra={"_MICROPOD_IMG_COMPLETE": "source_bash"})
    assert "complete -o default -F _micropod_img_completion micropod-img" in said.out
