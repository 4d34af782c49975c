from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from micropod_img.pull.crane_words import GROUPS, OTHER_VALUE_FLAGS, REFERENCE_FLAGS, read_crane_words
from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = "a.example/x/app:v1", "b.example/app:v1", "c.example/app:v1"
# What crane's help does not list, and what is none of a command's own.
HIDDEN = ("edit", "optimize")
COMMON = {"--help", "-h", "--insecure", "--verbose", "-v", "--allow-nondistributable-artifacts"}
# A value for one command and a switch for another, or references for one and something else for another.
AMBIGUOUS = {"-a", "-m"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"ls {A}", [A]),
        (f"manifest {A}", [A]),
        (f"-v --platform linux/arm64 manifest {A}", [A]),
        (f"manifest --platform=linux/arm64 -- {A}", [A]),
        (f"copy {A} {B}", [A, B]),
        (f"cp -a -j 3 {A} {B}", [A, B]),
        (f"tag {A} c.example/app", [A]),
        (f"pull {A} {B} out.d/images.tar", [A, B]),
        (f"pull -c cache.d/here {A} out.d/images.tar", [A]),
        (f"push in.d/images {A}", [A]),
        (f"export {A} out.d/x.tar", [A]),
        ("export - out.d/x.tar", []),
        (f"append -b {A} -f files.d/x.tar,files.d/y.tar -t {B}", [A, B]),
        (f"append -vb{A} --new_tag={B} -f x.tar", [A, B]),
        (f"mutate {A} -t {B} -a k.d/v=1 -l a.d/b=c --entrypoint /bin.d/sh", [B, A]),
        (f"rebase {A} --old_base {B} --new_base={C}", [A, B, C]),
        (f"validate --remote {A}", [A]),
        (f"index append {A} -m {B},{C} -t {A}", [A, B, C]),
        (f"index filter {A} --platform linux/amd64", [A]),
        (f"edit manifest {A} -m application.d/json", [A]),
        (f"auth token -m {B} {A}", [A, B]),
        (f"flatten {A} -t {B}", [A, B]),
        ("catalog a.example:5000", ["a.example:5000/any/name"]),
        ("auth get a.example", ["a.example/any/name"]),
        ("ls alpine", ["docker.io/library/alpine:latest"]),
        ("ls UPPER", []),
        ("registry serve --disk a.example/x", []),
        ("help ls", []),
        ("version", []),
        ("--help", []),
        ("", []),
        (f"digest --tarball in.d/x.tar {A}", [A]),
    ],
)
def test_the_registries_that_a_command_line_names_are_found(line: str, expected: list[str]) -> None:
    found = {str(reference).removesuffix(":latest") for reference in read_crane_words(line.split()).references}
    assert found == {name.removesuffix(":latest") for name in expected}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ls --insecure a.example/x", True),
        ("--insecure ls a.example/x", True),
        ("--insecure=true ls a.example/x", True),
        ("--insecure=1 ls a.example/x", True),
        ("--insecure=false ls a.example/x", False),
        ("--insecure ls --insecure=0 a.example/x", False),
        ("ls -- --insecure", False),
        ("mutate --label --insecure a.example/x", False),
    ],
)
def test_insecure_is_seen_where_crane_sees_it(line: str, *, expected: bool) -> None:
    assert read_crane_words(line.split()).insecure is expected


def test_every_flag_of_this_crane_is_known(crane: Path) -> None:
    """An update of crane that brings a flag with a value must be looked at: the word behind it would be misread."""
    switches: set[str] = set()
    values: set[str] = set()
    for command in commands(crane):
        for short, long, kind in flags(crane, command):
            (values if kind else switches).update({short, long} - {""})
    assert values - AMBIGUOUS == (REFERENCE_FLAGS | OTHER_VALUE_FLAGS) - AMBIGUOUS
    assert switches - AMBIGUOUS - COMMON == (switches - AMBIGUOUS - COMMON) - REFERENCE_FLAGS - OTHER_VALUE_FLAGS


def commands(crane: Path) -> list[str]:
    found = [*listed(crane), *HIDDEN]
    groups = [command for command in found if command in {*GROUPS}]
    assert set(groups) == GROUPS
    return [*found, *(f"{group} {command}" for group in groups for command in listed(crane, group))]


def listed(crane: Path, *words: str) -> list[str]:
    said = run(crane, *words, "--help").stdout.partition("Available Commands:\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in said.splitlines()]


def flags(crane: Path, command: str) -> list[tuple[str, str, str]]:
    """Return each flag of a command in both forms, and the name of its value: empty for a switch (pflag's usage)."""
    said = run(crane, *command.split(), "--help").stdout
    return re.findall(r"^ +(?:(-\w), )?(--[\w-]+)(?: (\S+))?(?:  .*)?$", said, re.MULTILINE)
