"""Kill every command at each of its steps, and see that nothing is lost and nothing stays behind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.soak.blows import strike_everywhere
from tests.soak.outcome import Outcome

if TYPE_CHECKING:
    from tests.soak.outcome import Plan

_SAMPLE = 29


def run(plan: Plan) -> Outcome:
    """Try every step of every command, or a sample of them."""
    struck = strike_everywhere(plan, "SIGKILL", sample=_SAMPLE)
    killed = [one for one in struck if one.status == -signal.SIGKILL]
    lost = tuple(line for one in struck for line in one.lost)
    return Outcome("kill points", len(killed), lost, {"commands": str(len({one.point.scenario for one in killed}))})
