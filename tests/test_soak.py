"""The short form of each section of ``bin/soak``: nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.soak.__main__ import SECTIONS
from tests.soak.outcome import Plan

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_nothing_is_lost(section: str, tmp_path: Path) -> None:
    outcome = SECTIONS[section](Plan(short=True, seconds=5, directory=tmp_path))
    assert outcome.lost == ()
    assert outcome.tried > 0
