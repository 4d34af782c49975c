"""docs/json.md names every command and every event."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from micropod_img.cli.program import COMMANDS
from micropod_img.progress import Event

PAGE = Path(__file__, "../../../docs/json.md").resolve().read_text()
WITHOUT_A_DOCUMENT = {"crane", "unshare"}


def first_cells() -> set[str]:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_command_that_has_a_document_has_a_row() -> None:
    named = {name.partition(" ")[0] for name in first_cells()}
    assert set(COMMANDS) - WITHOUT_A_DOCUMENT <= named


def test_every_event_has_a_row() -> None:
    events = {re.sub(r"(?<=[a-z])(?=[A-Z])", "-", one.__name__).lower() for one in get_args(Event)}
    assert events <= first_cells()
