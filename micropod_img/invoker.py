"""Whose store, configuration and credentials are meant, also where everybody is root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

INVOKING_UID: Final = "MICROPOD_USERNS_UID"
"""Environment variable that tells programs inside a store's user namespace who entered it."""

_PROC: Final = Path("/proc/self")


def invoking_uid() -> int:
    """Return who runs this: outside of the user namespace, if a store's was entered, and else as the kernel says."""
    uid = os.geteuid()
    told = os.environ.get(INVOKING_UID, "")
    # A variable that survived sudo says nothing: the kernel tells who root is here (user_namespaces(7)).
    return int(told) if uid == 0 and told.isdecimal() and _outside("uid_map") == told else uid


def as_invoker() -> tuple[str, ...]:
    """Return words before a command that let it run as who runs this, where a store's user namespace was entered.

    A program that asks others for something, such as a keyring over D-Bus, has to be who they see. Where util-linux is
    missing it runs as root of the namespace.
    """
    if invoking_uid() == os.geteuid():
        return ()
    unshare = shutil.which("unshare", path="/usr/bin:/bin")
    if unshare is None:
        return ()
    return (unshare, "--user", f"--map-user={invoking_uid()}", f"--map-group={_outside('gid_map')}", "--")


def _outside(name: str) -> str | None:
    """Return who root of this user namespace is outside of it; None where nobody outside is."""
    inside, outside, _ = (_PROC / name).read_text(encoding="ascii").splitlines()[0].split()
    return outside if inside == "0" else None
