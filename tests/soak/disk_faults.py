"""Let the disk be full, or broken, at each step that writes: that is said, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.blows import strike_everywhere
from tests.soak.outcome import Outcome

if TYPE_CHECKING:
    from tests.soak.outcome import Plan

_SAMPLE = 19


def run(plan: Plan) -> Outcome:
    """Try every such step of every command, or a sample of them, with both faults."""
    struck = [one for one in strike_everywhere(plan, "a full disk", "a broken disk", sample=_SAMPLE) if one.happened]
    survived = sum(one.status == 0 for one in struck)
    lost = tuple(line for one in struck for line in one.lost)
    return Outcome("disk faults", len(struck), lost, {"done all the same": str(survived)})
