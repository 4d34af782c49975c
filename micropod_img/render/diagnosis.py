"""What `doctor` found, for people and as JSON."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from micropod_img.render.text import counted, one_line

if TYPE_CHECKING:
    from micropod_img.diagnosis import Diagnosis, Finding
    from micropod_img.render.document import JsonObject
    from micropod_img.render.style import Style

_STATE_WIDTH = len("problem") + 2
_TEXT_WIDTH = 88


def diagnosis_object(diagnosis: Diagnosis) -> JsonObject:
    """Return the data of ``doctor``."""
    return {
        "findings": [
            {
                "subject": one.subject,
                "state": one.state,
                "message": one.message,
                "hint": one.hint,
                "code": None if one.error is None else one.error.code,
                "exit_status": 0 if one.error is None else one.error.exit_status,
                "facts": one.facts,
            }
            for one in diagnosis.findings
        ],
    }


def diagnosis_text(diagnosis: Diagnosis, style: Style) -> str:
    """Return one paragraph for each finding: how it is, what about it, and what to do."""
    width = max(len(one.subject) for one in diagnosis.findings) + 2
    lines = [line for one in diagnosis.findings for line in _paragraph(one, width, style)]
    problems, warnings = len(diagnosis.problems), len(diagnosis.warnings)
    counts = [counted(problems, "problem")] if problems else []
    counts += [counted(warnings, "warning")] if warnings else []
    return "\n".join([*lines, "", " and ".join(counts) or "all is well"])


def problems_text(diagnosis: Diagnosis) -> str:
    """Return each problem in one line."""
    return "\n".join(f"{one.subject}: {one_line(one.message)}" for one in diagnosis.problems)


def _paragraph(finding: Finding, width: int, style: Style) -> list[str]:
    state = finding.state.ljust(_STATE_WIDTH)
    marked = {"ok": style.good, "warning": style.notable, "problem": style.bad}[finding.state](state)
    margin = " " * (_STATE_WIDTH + width)
    first, *rest = _wrapped(finding.message)
    lines = [f"{marked}{style.bold(finding.subject.ljust(width))}{first}", *(f"{margin}{line}" for line in rest)]
    if finding.hint:
        first, *rest = _wrapped(f"→ {finding.hint}")
        lines += [f"{margin}{first}", *(f"{margin}  {line}" for line in rest)]
    return lines


def _wrapped(text: str) -> list[str]:
    # Paths and commands stay whole, for whoever copies them.
    return textwrap.wrap(one_line(text), _TEXT_WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
