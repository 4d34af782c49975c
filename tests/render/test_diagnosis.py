from __future__ import annotations

from micropod_img.diagnosis import Diagnosis, fine, problem, warning
from micropod_img.errors import UnsupportedError
from micropod_img.render.diagnosis import diagnosis_text, problems_text
from micropod_img.render.style import Style

REFUSED = UnsupportedError("they are \x1b[31mnot allowed here", hint="see " + "the settings " * 9)
FINDINGS = Diagnosis(
    (
        fine("kernel", "Linux 6.8"),
        warning("clock", "the clock says 1970", "set it"),
        problem("user-namespaces", REFUSED),
    )
)

MARGIN = " " * 26


def test_a_diagnosis_reads_as_paragraphs_with_what_to_do() -> None:
    assert diagnosis_text(FINDINGS, Style()).splitlines() == [
        "ok       kernel           Linux 6.8",
        "warning  clock            the clock says 1970",
        f"{MARGIN}→ set it",
        r"problem  user-namespaces  they are \x1b[31mnot allowed here",
        f"{MARGIN}→ see the settings the settings the settings the settings the settings the settings the",
        f"{MARGIN}  settings the settings the settings",
        "",
        "1 problem and 1 warning",
    ]


def test_colours_are_of_the_state() -> None:
    lines = diagnosis_text(FINDINGS, Style(colour=True)).splitlines()
    assert lines[0].startswith("\x1b[32mok ")
    assert lines[1].startswith("\x1b[33mwarning")
    assert lines[3].startswith("\x1b[1;31mproblem")


def test_where_nothing_is_wrong_it_is_said() -> None:
    assert diagnosis_text(Diagnosis((fine("kernel", "Linux"),)), Style()).endswith("\nall is well")


def test_quiet_is_one_line_for_each_problem() -> None:
    assert problems_text(FINDINGS) == r"user-namespaces: they are \x1b[31mnot allowed here"
