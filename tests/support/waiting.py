"""Wait in tests: for what another thread or process does, never for a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail if it does not within a minute."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(_POLL_SECONDS)
