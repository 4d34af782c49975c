"""Interrupt every command at each of its steps: it ends in order, and leaves nothing half-done."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.soak.blows import strike_everywhere
from tests.soak.outcome import Outcome

if TYPE_CHECKING:
    from tests.soak.outcome import Plan

_SAMPLE = 61


def run(plan: Plan) -> Outcome:
    """Try every step of every command, or a sample of them, with both signals."""
    struck = [one for one in strike_everywhere(plan, "SIGINT", "SIGTERM", sample=_SAMPLE) if one.happened]
    statuses = Counter(one.status for one in struck)
    lost = tuple(line for one in struck for line in one.lost)
    return Outcome("interrupts", len(struck), lost, {"done all the same": str(statuses[0])})
