"""What an ordinary user needs besides: a user namespace, and ids in it (user_namespaces(7), subuid(5))."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import run
from micropod_img.diagnosis import Finding, fine, problem, warning
from micropod_img.errors import MicropodError, UnsupportedError
from micropod_img.rootfs.programs import find_program
from micropod_img.rootfs.subordinate_ids import subordinate_ids
from micropod_img.rootfs.userns import COST_OF_ONE_ID, find_holder, not_allowed

if TYPE_CHECKING:
    from micropod_img.store.layout import StoreLayout

_SYSCTLS: Final = Path("/proc/sys")
_FORBIDDING: Final = {
    "user.max_user_namespaces": "0",
    "kernel.unprivileged_userns_clone": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
}
"""Settings that forbid user namespaces, and with which value; many kernels do not have the last two."""

_USUAL_IDS: Final = 65536
_SECONDS: Final = 60.0


def user_namespaces(layout: StoreLayout | None) -> Finding:
    """See whether this user may have a user namespace, which is tried.

    Args:
        layout: The store whose namespace may be there; None where there is no store.
    """
    subject = "user-namespaces"
    if os.geteuid() == 0:
        return fine(subject, "not needed: you are root")
    settings = {name: value for name in _FORBIDDING if (value := _sysctl(name)) is not None}
    forbidding = {name: value for name, value in settings.items() if value == _FORBIDDING[name]}
    said = ", ".join(f"{name} is {value}" for name, value in forbidding.items())
    try:
        argv = [find_program("unshare", package="util-linux"), "--user", "--map-root-user", "--mount"]
        tried = run.run([*argv, "--", "/bin/sh", "-c", ":"], env={}, timeout=_SECONDS)
    except MicropodError as error:
        return problem(subject, error, **settings)
    if tried.status != 0:
        forbidden = not_allowed(tried.stderr)
        forbidden.message += f": {said or tried.stderr.strip()}"
        return problem(subject, forbidden, **settings)
    if forbidding:
        hint = "if pods cannot be made, change this setting (sysctl), or give this program an AppArmor profile"
        return warning(subject, f"they can be made, but {said}", hint, **settings)
    holder = None if layout is None else find_holder(layout)
    running = "none is there now" if holder is None else f"process {holder.pid} holds this store's"
    return fine(subject, f"allowed; {running}", holder=None if holder is None else holder.pid, **settings)


def subordinate_id_ranges() -> Finding:
    """See whether this user has ids besides their own, and the programs that map them."""
    subject = "subordinate-ids"
    if os.geteuid() == 0:
        return fine(subject, "not needed: you are root")
    uid = os.geteuid()
    counts = {file: sum(each.count for each in subordinate_ids(file, uid)) for file in ("subuid", "subgid")}
    if not all(counts.values()):
        hint = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {_name(uid)}, as root"
        return warning(subject, COST_OF_ONE_ID, hint, **counts)
    try:
        programs = [Path(find_program(name, package="uidmap")) for name in ("newuidmap", "newgidmap")]
    except MicropodError as error:
        return warning(subject, COST_OF_ONE_ID, error.hint, **counts)
    powerless = [str(program) for program in programs if not _has_rights(program)]
    if powerless or _may_gain_nothing():
        why = f"{' and '.join(powerless)} are without the rights that they need" if powerless else "no_new_privs is set"
        hint = "install uidmap again: they are setuid root, or have the capabilities cap_setuid and cap_setgid"
        unusable = UnsupportedError(
            f"the subordinate ids of this user cannot be used: {why}", code="subordinate-ids", hint=hint
        )
        return problem(subject, unusable, **counts)
    if min(counts.values()) < _USUAL_IDS:
        message = f"{counts['subuid']} user and {counts['subgid']} group ids: images with higher ones will not unpack"
        return warning(subject, message, f"{_USUAL_IDS} are usual; see /etc/subuid and /etc/subgid", **counts)
    return fine(subject, f"{counts['subuid']} user and {counts['subgid']} group ids", **counts)


def _sysctl(name: str) -> str | None:
    try:
        return (_SYSCTLS / name.replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _name(uid: int) -> str:
    import pwd  # noqa: PLC0415 - who lacks ids is told, and nobody else

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _has_rights(program: Path) -> bool:
    """Whether a program of another user runs with more rights than whoever starts it."""
    if os.statvfs(program).f_flag & os.ST_NOSUID:
        return False
    status = program.stat()
    if status.st_uid == 0 and status.st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def _may_gain_nothing() -> bool:
    return "NoNewPrivs:\t1" in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
