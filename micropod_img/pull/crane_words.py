"""Which words of a crane command line name registries; the rest of it is crane's business.

The table is that of crane 0.21.9; ``tests/pull/test_crane_words.py`` holds it against what that crane says of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from micropod_img.errors import InvalidReference
from micropod_img.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REFERENCE_FLAGS: Final = frozenset(
    {"-b", "-t", "--base", "--new_tag", "--tag", "--repo", "--remote", "--mount", "--manifest"}
    | {"--new_base", "--old_base", "--original", "--rebased"}
)
"""Flags whose value is a reference, or several with commas in between."""

OTHER_VALUE_FLAGS: Final = frozenset(
    {"-c", "-e", "-f", "-j", "-l", "-o", "-p", "-u", "-w"}
    | {"--platform", "--set-platform", "--new_layer", "--output", "--tarball", "--jobs", "--filename", "--media-type"}
    | {"--annotation", "--append", "--cmd", "--entrypoint", "--env", "--exposed-ports", "--label", "--user"}
    | {"--workdir", "--cache_path", "--format", "--image-refs", "--address", "--disk", "--username", "--password"}
)
"""Flags whose value is something else."""

# Letters that mean different things to different commands.
_REFERENCE_FLAGS_OF: Final = {"auth token": {"-m"}, "index append": {"-m"}}
_OTHER_VALUE_FLAGS_OF: Final = {"mutate": {"-a"}, "edit manifest": {"-m"}}

GROUPS: Final = frozenset({"auth", "edit", "index", "registry"})
"""Commands that have commands."""

# Positional words that are no references: files, and the new tag of `tag`.
_POSITIONS: Final = {"pull": slice(0, -1), "push": slice(1, None), "export": slice(0, 1), "tag": slice(0, 1)}
_WITHOUT_REFERENCES: Final = frozenset({"completion", "help", "version", "registry serve"})
_OF_WHOLE_REGISTRIES: Final = frozenset({"catalog", "auth get", "auth login", "auth logout"})
_PROBE: Final = "any/name"
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})  # of Go's strconv.ParseBool


@dataclass(frozen=True, slots=True)
class CraneWords:
    """A crane command line, as far as it is understood.

    Attributes:
        command: Such as ``ls`` or ``auth login``; empty if there is none.
        insecure: Whether ``--insecure`` is among the flags.
        references: What it names at registries; for a whole registry a name that may stand for any in it.
    """

    command: str
    insecure: bool
    references: tuple[Reference, ...]


def read_crane_words(words: Sequence[str]) -> CraneWords:
    """Understand a command line of crane's, as pflag and cobra parse it.

    A word that is no reference is passed over: crane will say so.

    Args:
        words: What follows ``crane``.
    """
    positional: list[str] = []
    named: list[str] = []
    insecure = False
    rest = iter(words)
    for word in rest:
        if word == "--":
            positional += rest
        elif word.startswith("--"):
            flag, equals, value = word.partition("=")
            if flag == "--insecure":
                insecure = not equals or value in _TRUE
            named += _values(word, rest, _command(positional))
        elif word.startswith("-") and word != "-":
            named += _short_values(word, rest, _command(positional))
        else:
            positional.append(word)
    command = _command(positional)
    operands = positional[len(command.split()) :]
    if command in _OF_WHOLE_REGISTRIES:
        found = [_whole_registry(operand) for operand in operands]
    else:
        operands = [] if command in _WITHOUT_REFERENCES else operands[_POSITIONS.get(command, slice(None))]
        found = [_reference(text) for text in (*operands, *named)]
    return CraneWords(command, insecure, tuple(dict.fromkeys(one for one in found if one is not None)))


def _command(positional: Sequence[str]) -> str:
    return " ".join(positional[: 2 if positional and positional[0] in GROUPS else 1])


def _values(word: str, rest: Iterator[str], command: str) -> list[str]:
    """Return the references in the value of a flag, taking it from the words that follow if it stands there."""
    flag, equals, value = word.partition("=")
    if flag in _reference_flags(command):
        return (value if equals else next(rest, "")).split(",")
    if flag in _other_value_flags(command) and not equals:
        next(rest, "")
    return []


def _short_values(word: str, rest: Iterator[str], command: str) -> list[str]:
    """Do the same for short flags: switches may stand together, and a value right behind its flag."""
    for position, letter in enumerate(word[1:], 1):
        flag, behind = f"-{letter}", word[position + 1 :]
        if flag in _reference_flags(command) | _other_value_flags(command):
            return _values(f"{flag}={behind.removeprefix('=')}" if behind else flag, rest, command)
    return []


def _reference_flags(command: str) -> frozenset[str]:
    return REFERENCE_FLAGS | _REFERENCE_FLAGS_OF.get(command, set())


def _other_value_flags(command: str) -> frozenset[str]:
    return OTHER_VALUE_FLAGS | _OTHER_VALUE_FLAGS_OF.get(command, set())


def _reference(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except InvalidReference:
        return None


def _whole_registry(text: str) -> Reference | None:
    return _reference(f"{text}/{_PROBE}")
