"""What root filesystems are made with here, tried out, and why not with something better."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from micropod_img.diagnosis import Finding, fine, problem, warning
from micropod_img.errors import DiskError, UnsupportedError
from micropod_img.rootfs.drivers.choice import REASONS, DriverSelection, may_mount
from micropod_img.rootfs.drivers.trial import LOWERDIR_PLUS, try_out
from micropod_img.rootfs.pods import Pods

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from micropod_img.diagnosis import Facts
    from micropod_img.rootfs.drivers.trial import Trial
    from micropod_img.store.store import Store

_FUSE: Final = "fuse-overlayfs"
_MORE_RIGHTS: Final = "give root CAP_SYS_ADMIN: in a container, --cap-add SYS_ADMIN --device /dev/fuse or --privileged"
_ELSEWHERE: Final = "a store on ext4, xfs, btrfs or tmpfs can use it: mount a volume there, or choose another --root"


def findings(store: Store | None, scratch: Path | None) -> Iterator[Finding]:
    """Try out the drivers.

    Args:
        store: The store; None where it cannot be used.
        scratch: An empty directory on its filesystem; None where none can be made.

    Raises:
        MicropodError: As `try_out`.
    """
    if scratch is None:
        yield warning("driver", "nothing can be tried where nothing can be written", "see what was said of the store")
        return
    trial = try_out(scratch)
    yield from _filesystem(trial)
    yield _overlay(trial)
    yield _fuse(trial)
    yield _driver(store, trial)


def _filesystem(trial: Trial) -> Iterator[Finding]:
    if not trial.hard_links:
        error = DiskError(
            "the filesystem has no hard links, which pulling needs", code="no-hard-links", hint="choose another --root"
        )
        yield problem("hard-links", error)
    if not trial.attributes:
        message = "the filesystem has no extended attributes: what images have of them is lost (security.capability)"
        yield warning("attributes", message, "choose a --root on ext4, xfs or btrfs")


def _overlay(trial: Trial) -> Finding:
    refused = next(iter(trial.refusals.values()))
    facts: Facts = {"works": refused is None, "options": trial.overlay_options}
    if refused is not None:
        return warning("overlay", refused, _ELSEWHERE if _may_mount() else _MORE_RIGHTS, **facts)
    works = [option for option, accepted in trial.overlay_options.items() if accepted]
    missing = [option for option, accepted in trial.overlay_options.items() if not accepted and option != "userxattr"]
    lacking = f"; {', '.join(missing)} missing in this kernel" if missing else ""
    if LOWERDIR_PLUS in missing:
        lacking += ", so long chains of layers are mounted by short names"
    return fine("overlay", f"works with {', '.join(works)}{lacking}", **facts)


def _fuse(trial: Trial) -> Finding:
    refused = trial.refusals.get(_FUSE)
    facts = {"works": refused is None, "device": os.path.exists("/dev/fuse")}  # noqa: PTH110 - a name of the kernel's
    if refused is None:
        return fine(_FUSE, "works", **facts)
    if trial.best != "copy":
        return fine(_FUSE, f"does not work, and is not needed: {refused}", **facts)
    if not _may_mount():
        return warning(_FUSE, refused, _MORE_RIGHTS, **facts)
    hint = "install fuse-overlayfs" if facts["device"] else "in a container: --device /dev/fuse; else modprobe fuse"
    return warning(_FUSE, refused, hint, **facts)


def _driver(store: Store | None, trial: Trial) -> Finding:
    recorded = None if store is None else DriverSelection(store).recorded_name()
    is_kept = recorded is not None and _has_pods(store)
    best = recorded if is_kept and trial.refusals.get(recorded or "", "") is None else trial.best
    if best is None:
        hopeless = UnsupportedError(
            "no root filesystem can be made here: " + _reasons(trial, None),
            code="no-driver",
            hint=_ELSEWHERE,
        )
        return problem("driver", hopeless)
    facts: Facts = {
        "driver": best,
        "reason": REASONS[best],
        "rejected": {name: refused for name, refused in trial.refusals.items() if refused is not None},
        "recorded": recorded,
        "reflinks": trial.reflinks,
    }
    if is_kept and recorded != best:
        gone = UnsupportedError(
            f"the pods here were made with {recorded}, which does not work any more",
            code="driver-gone",
            hint="make it work again, or remove all pods",
        )
        return problem("driver", gone, **facts)
    message = f"{best}: {REASONS[best]}"
    reasons = _reasons(trial, best)
    if best == trial.best == "copy":
        size = "sharing blocks until they are written to" if trial.reflinks else "each of its full size"
        hint = _ELSEWHERE if _may_mount() else _MORE_RIGHTS
        return warning("driver", f"{message}, {size}; {reasons}", hint, **facts)
    if best != trial.best:
        hint = f"remove all pods: the next one is made with {trial.best}, which works now"
        return warning("driver", f"the pods here were made with {best}", hint, **facts)
    return fine("driver", f"{message} ({reasons})" if reasons else message, **facts)


def _reasons(trial: Trial, best: str | None) -> str:
    """Say why no driver that would have been better was taken."""
    reasons = []
    for name, refused in trial.refusals.items():
        if name == best:
            break
        if refused is not None:
            reasons.append(f"{name}: {refused}")
    return "; ".join(reasons)


def _may_mount() -> bool:
    """Whether this process may mount; an ordinary user may in a user namespace, in which all was tried."""
    return os.geteuid() != 0 or may_mount()


def _has_pods(store: Store | None) -> bool:
    return store is not None and any(True for _ in Pods(store).records())
