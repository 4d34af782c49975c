"""Looking for a secret in all that could be shown of an error."""

from __future__ import annotations

import base64
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micropod_img.errors import MicropodError

SECRET = "correct-horse-battery-staple"


def assert_not_shown(error: MicropodError) -> None:
    """Look for the secret in all that could be printed of an error, locals of the package's frames included."""
    captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = [str(error), repr(error), error.message, error.hint or "", error.detail or ""]
    pending: list[traceback.TracebackException | None] = [captured]
    while pending:
        each = pending.pop()
        if each is None:
            continue
        shown.append("".join(each.format_exception_only()))
        pending += [each.__cause__, None if each.__suppress_context__ else each.__context__]
        for frame in each.stack:
            if "/tests/" not in frame.filename:
                shown += (frame.locals or {}).values()
    assert len(shown) > 5
    encoded = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert not [text for text in shown if SECRET in text or encoded in text]
