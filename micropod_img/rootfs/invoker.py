"""Whose store, configuration and credentials are meant, also where everybody is root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

INVOKING_UID: Final = "MICROPOD_USERNS_UID"
"""Environment variable that tells programs inside a store's user namespace who entered it."""

_UID_MAP: Final = Path("/proc/self/uid_map")


def invoking_uid() -> int:
    """Return who runs this: outside of the user namespace, if a store's was entered, and else as the kernel says."""
    uid = os.geteuid()
    told = os.environ.get(INVOKING_UID, "")
    if uid == 0 and told.isdecimal():
        # A variable that survived sudo says nothing: the kernel tells who root is here (user_namespaces(7)).
        inside, outside, _ = _UID_MAP.read_text(encoding="ascii").splitlines()[0].split()
        if (inside, outside) == ("0", told):
            return int(told)
    return uid
