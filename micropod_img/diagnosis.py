"""What `micropod_img.doctor` finds: one line about each thing that has to be right, with what to do where it is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, Union

if TYPE_CHECKING:
    from collections.abc import Mapping

    from micropod_img.errors import MicropodError

State: TypeAlias = Literal["ok", "warning", "problem"]
Fact: TypeAlias = Union[str, int, bool, "Mapping[str, str | bool]", "tuple[str, ...]", None]
Facts: TypeAlias = "Mapping[str, Fact]"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing.

    Attributes:
        subject: What was looked at, such as ``driver``; stable across releases.
        state: ``ok``; ``warning`` where something works less well than it could, or may soon not; ``problem`` where
            commands fail.
        message: What is so, in a user's words.
        hint: What to do about it.
        facts: The same for programs; which there are depends on the subject.
        error: Of a problem: what the commands that need this fail with.
    """

    subject: str
    state: State
    message: str
    hint: str | None = None
    facts: Facts = field(default_factory=dict)
    error: MicropodError | None = None


def fine(subject: str, message: str, **facts: Fact) -> Finding:
    """Return that something is as it should be."""
    return Finding(subject, "ok", message, facts=facts)


def warning(subject: str, message: str, hint: str | None, **facts: Fact) -> Finding:
    """Return that something could be better."""
    return Finding(subject, "warning", message, hint, facts)


def problem(subject: str, error: MicropodError, **facts: Fact) -> Finding:
    """Return that something is wrong, as the command says that fails with it."""
    return Finding(subject, "problem", error.message, error.hint, facts, error)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, in an order in which they can be read and put right."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What makes commands fail."""
        return tuple(finding for finding in self.findings if finding.state == "problem")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What works less well than it could."""
        return tuple(finding for finding in self.findings if finding.state == "warning")
