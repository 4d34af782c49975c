"""What `verify` found, for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.errors import IntegrityError
from micropod_img.render.text import counted, one_line, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from micropod_img.problems import Problem, Severity, Verification
    from micropod_img.render.document import JsonObject
    from micropod_img.render.style import Style

_MOST_NAMED = 5


def verification_object(found: Verification) -> JsonObject:
    """Return the data of ``verify``."""
    return {
        "problems": [
            {
                "code": one.code,
                "severity": one.severity,
                "message": one.message,
                "path": one.path,
                "digest": one.digest,
                "images": list(one.images),
                "pods": list(one.pods),
            }
            for one in found.problems
        ],
        "repaired": [
            {"code": one.code, "message": one.message, "path": one.path, "images": list(one.images)}
            for one in found.repaired
        ],
        "checked": {
            "images": found.images,
            "blobs": found.blobs,
            "blob_bytes": found.blob_bytes,
            "snapshots": found.snapshots,
            "pods": found.pods,
        },
        "unlisted": list(found.unlisted),
        "leftovers": found.leftovers,
    }


def verification_text(found: Verification, style: Style) -> str:
    """Return what was found, the worst first, and what was looked at."""
    lines: list[str] = []
    lines += [f"{style.good('repaired')}  {one_line(one.message)}" for one in found.repaired]
    for one in found.problems:
        lines.append(f"{_word(one.severity, style)}  {one_line(one.message)}")
        lines += [f"          {style.dim(text)}" for text in _hurt(one)]
    lines += _notes(found)
    checked = (
        f"{counted(found.blobs, 'blob')} ({size(found.blob_bytes)}), {counted(found.images, 'entry', 'entries')} in "
        f"the index, {counted(found.snapshots, 'snapshot')}, {counted(found.pods, 'pod')}"
    )
    end = counted(len(found.problems), "problem") if found.problems else "all is well"
    return "\n".join([*lines, f"{end}: {checked}"])


def verification_quiet(found: Verification) -> str:
    """Return code and path of each problem."""
    return "\n".join(f"{one.code} {one_line(one.path)}" for one in found.problems)


def failure(found: Verification, *, repaired: bool) -> IntegrityError:
    """Return the error of a verification that found something.

    Args:
        found: What it found.
        repaired: Whether these are what a repair left.
    """
    left = " left" if repaired else ""
    worst = found.problems[0]
    return IntegrityError(
        f"{counted(len(found.problems), 'problem')}{left}: {worst.message}",
        code=worst.code,
        hint=None if repaired else "micropod-img verify --repair",
        stage="verify",
    )


def _word(severity: Severity, style: Style) -> str:
    word = severity.ljust(len("critical"))
    return style.notable(word) if severity == "minor" else style.bad(word)


def _hurt(problem: Problem) -> list[str]:
    lines = [] if problem.path in problem.message else [one_line(problem.path)]
    for word, names in (("image", problem.images), ("pod", problem.pods)):
        if names:
            lines.append(f"hurts {word}{'s' if len(names) > 1 else ''} {_listed(names)}")
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(one_line(name) for name in names[:_MOST_NAMED]) + more


def _notes(found: Verification) -> list[str]:
    lines = []
    if found.unlisted:
        number = counted(len(found.unlisted), "image")
        lines.append(f"note      {number} here that nothing lists; --repair lists them, gc removes them")
    if found.leftovers:
        number = counted(found.leftovers, "staging place")
        lines.append(f"note      {number} of killed processes; the next command that writes sweeps them")
    return lines
