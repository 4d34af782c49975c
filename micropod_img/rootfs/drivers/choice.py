"""Choose how root filesystems are made here: by really doing it once, in the order of what serves users best."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import fsutil
from micropod_img.cancellation import Cancellation
from micropod_img.errors import IntegrityError, MicropodError, UnsupportedError
from micropod_img.locks import Patience, locked, signed
from micropod_img.models import DriverChoice
from micropod_img.rootfs.drivers.copies import CopyDriver
from micropod_img.rootfs.drivers.driver import PodPaths
from micropod_img.rootfs.drivers.fuse import FuseOverlayDriver
from micropod_img.rootfs.drivers.overlay import OverlayDriver
from micropod_img.rootfs.programs import PROGRAM_PATH
from micropod_img.store.documents import Members, corrupt, members_of
from micropod_img.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from micropod_img.rootfs.drivers.driver import Driver
    from micropod_img.store.layout import StoreLayout
    from micropod_img.store.store import Store

_TRIAL_BYTES = 1 << 20
_TRIAL_FILES = 64
_CAP_SYS_ADMIN = 1 << 21
_FUSE_DEVICE = Path("/dev/fuse")
_WHOLE_ID_MAP = (0, 0, (1 << 32) - 1)
REASONS = {
    "overlay": "the kernel's overlay works here",
    "overlay-userxattr": "the kernel's overlay works here, in a user namespace",
    "fuse-overlayfs": "fuse-overlayfs works here, and the kernel's overlay does not",
    "copy": "nothing can be mounted here, so each layer and each pod is a copy",
}


def in_user_namespace() -> bool:
    """Whether this process lives in a user namespace that is not the machine's own (user_namespaces(7))."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    return [tuple(map(int, line.split())) for line in lines] != [_WHOLE_ID_MAP]


def drivers(layout: StoreLayout) -> tuple[Driver, ...]:
    """Return the drivers that may work for this process, the best first."""
    return (
        OverlayDriver(layout, userxattr=in_user_namespace()),
        FuseOverlayDriver(layout),
        CopyDriver(),
    )


def may_mount() -> bool:
    """Whether this process has the right to mount, as root of a container mostly has not (capabilities(7))."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) & _CAP_SYS_ADMIN)


def refusal(driver: Driver, scratch: Path) -> str | None:
    """Return why a driver does not work, or None where it does.

    Args:
        driver: The driver.
        scratch: An empty directory of the driver's store, which the caller removes.

    Raises:
        DiskError: The disk is full or broken, which says nothing of the driver.
    """
    try:
        driver.isolated(lambda: _try(driver, scratch), Cancellation())
    except MicropodError as error:
        said = [error.message, *(error.detail or "").splitlines()]
        # Paths of the trial tell nobody anything.
        return "; ".join(filter(None, said)).replace(f"{scratch}/", "")
    except OSError as error:
        # EIO is also what an overlay says where the filesystem has no extended attributes.
        if error.errno in fsutil.NO_SPACE or (error.errno == errno.EIO and not _disk_works(scratch)):
            raise fsutil.disk_error(error, scratch) from error
        return error.strerror or str(error)
    return None


def _disk_works(scratch: Path) -> bool:
    """Whether a file can be written and read, without any driver."""
    try:
        fsutil.write_durably(scratch / "disk", b"works")
        return (scratch / "disk").read_bytes() == b"works"
    except OSError:
        return False


class DriverSelection:
    """The choice of one store: made once for a kernel and a kind of user namespace, and kept in the store.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def recorded(self) -> tuple[Driver, DriverChoice] | None:
        """Return the choice that was made here before, or None where none was made, or things are other now."""
        members = self._read()
        if members is None or members.mapping.get("made_on") != _circumstances(self._store.layout):
            return None
        choice = _choice(members)
        if choice.rejected and self._may_be_better_now(members):
            return None
        for driver in drivers(self._store.layout):
            if driver.name == choice.driver:
                return driver, choice
        return None

    def recorded_name(self) -> str | None:
        """Return the name of the driver that made the snapshots here, on whatever kernel; None where there is none.

        Raises:
            IntegrityError: The record is torn.
        """
        members = self._read()
        return None if members is None else _choice(members).driver

    def rewrite(self, made_with: str) -> None:
        """Write a torn record again: the choice is made anew when it is needed, and no other while there are pods.

        Args:
            made_with: The driver that the snapshots here were made with.
        """
        self._record(DriverChoice(made_with, REASONS[made_with], ()), made_on={})

    def forget(self) -> None:
        """Remove a torn record, and with it all snapshots, as nobody knows for which driver they are."""
        self._discard_snapshots()
        with fsutil.disk_errors(self._store.layout.snapshot_driver):
            self._store.layout.snapshot_driver.unlink(missing_ok=True)

    def choose(self, *, in_use: bool) -> tuple[Driver, DriverChoice]:
        """Try the drivers and record the first that works.

        Snapshots of one driver are of no use to another: where they are needed, only the driver that made them will do.

        Args:
            in_use: Whether pods, mounts or work in progress need snapshots.

        Raises:
            UnsupportedError: The driver that made these snapshots does not work any more.
            DiskError: The disk is full.
        """
        layout = self._store.layout
        path = layout.locks / "driver.lock"
        patience = Patience("the choice of a driver", self._store.on_wait)
        with fsutil.disk_errors(path), locked(path, patience, owner=signed("choosing a driver")):
            chosen = self.recorded()
            if chosen is not None:
                return chosen
            members = self._read()
            before = None if members is None else _choice(members).driver
            rejected: list[tuple[str, str]] = []
            kept_for_pods = False
            # A disk that is full says nothing of drivers, and must not decide for a lesser one.
            fsutil.require_space(layout.root, _TRIAL_BYTES, files=_TRIAL_FILES, for_what="a trial of drivers")
            for driver in drivers(layout):
                refusal = self._probe(driver)
                if refusal is None and (not in_use or before in (None, driver.name)):
                    choice = DriverChoice(driver.name, REASONS[driver.name], tuple(rejected))
                    if before not in (None, driver.name):
                        self._discard_snapshots()
                    self._record(choice, made_on=_circumstances(layout), kept_for_pods=kept_for_pods)
                    return driver, choice
                kept_for_pods |= refusal is None
                rejected.append((driver.name, refusal or f"what is in use here was made with {before}"))
        if in_use and before is not None:
            raise UnsupportedError(
                f"what is in use here was made with {before}, which does not work any more: "
                f"{dict(rejected).get(before)}",
                code="driver-gone",
                hint="make it work again, or remove all pods and mounts of images; micropod-img doctor says what works",
            )
        raise UnsupportedError(
            f"no root filesystem can be made in {layout.root}",
            code="no-driver",
            hint="micropod-img doctor says what is missing",
            detail="; ".join(f"{name}: {reason}" for name, reason in rejected),
        )

    def _probe(self, driver: Driver) -> str | None:
        with self._store.stage("probe") as staging:
            return refusal(driver, staging.path)

    def _discard_snapshots(self) -> None:
        """Remove all snapshots; the record goes on saying whose they are until they are gone and it is replaced."""
        layout = self._store.layout
        with fsutil.disk_errors(layout.snapshots):
            for path in layout.snapshots.iterdir():
                if path != layout.snapshot_driver:
                    remove_tree(path)

    def _read(self) -> Members | None:
        path = self._store.layout.snapshot_driver
        try:
            members = members_of(path.read_bytes(), str(path))
            _choice(members)
        except FileNotFoundError:
            return None
        except IntegrityError as error:
            raise IntegrityError(error.message, code="corrupt-driver", hint="micropod-img verify --repair") from error
        return members

    def _may_be_better_now(self, members: Members) -> bool:
        """Whether a lesser driver may have had its time: what was missing is there, or no pod keeps it any more."""
        if members.mapping.get("kept_for_pods") is True and not any(self._store.layout.pods.glob("*")):
            return True
        return members.mapping.get("means") != _means()

    def _record(self, choice: DriverChoice, *, made_on: Mapping[str, object], kept_for_pods: bool = False) -> None:
        layout = self._store.layout
        document = {
            "driver": choice.driver,
            "reason": choice.reason,
            "rejected": dict(choice.rejected),
            "made_on": made_on,
            "means": _means(),
            "kept_for_pods": kept_for_pods,
        }
        with self._store.stage("driver") as staging, fsutil.disk_errors(layout.snapshots):
            fsutil.make_directory(layout.snapshots)
            content = json.dumps(document, indent=2).encode() + b"\n"
            fsutil.replace_durably(layout.snapshot_driver, content, staging=staging.path / "driver.json")


def _circumstances(layout: StoreLayout) -> Mapping[str, object]:
    """Return what a choice depends on; a store that was moved, maybe into a container's overlay, gets another one."""
    return {
        "kernel": os.uname().release,
        "user_namespace": in_user_namespace(),
        "root": os.geteuid() == 0,
        "device": layout.root.stat().st_dev,
    }


def _means() -> Mapping[str, object]:
    """Return what an administrator may add where a lesser driver was chosen."""
    program = shutil.which("fuse-overlayfs", path=PROGRAM_PATH)
    device = _FUSE_DEVICE.stat().st_rdev if os.access(_FUSE_DEVICE, os.R_OK | os.W_OK) else None
    return {"program": program, "device": device, "rights": may_mount()}


def _choice(members: Members) -> DriverChoice:
    if members.text("driver") not in REASONS:
        raise corrupt("the record of the driver", "it names none")
    rejected = members.child("rejected")
    reasons = () if rejected is None else tuple((name, rejected.text(name)) for name in rejected.mapping)
    return DriverChoice(members.text("driver"), members.text("reason"), reasons)


def _try(driver: Driver, scratch: Path) -> None:
    """Apply two small layers, the second changing what is in the first; read and write the files of a pod of them."""
    target = scratch / "target"
    target.mkdir()
    snapshots: list[Path] = []
    for name, fill in (("base", _fill_base), ("top", _fill_top)):
        snapshot = scratch / name
        snapshot.mkdir()
        with driver.applying([one / "fs" for one in snapshots], snapshot, target):
            fill(target)
        snapshots.append(snapshot)
    pod = PodPaths(scratch / "pod")
    pod.directory.mkdir()
    lowers = [one / "fs" for one in snapshots]
    driver.prepare_pod(pod, lowers, read_only=False)
    driver.mount_pod(pod, lowers, read_only=False)
    for name, expected in _SEEN.items():
        _expect(name, (pod.rootfs / name).read_bytes(), expected)
        (pod.rootfs / name).write_bytes(b"written")
        _expect(name, (pod.rootfs / name).read_bytes(), b"written")
    found = {str(path.relative_to(pod.rootfs)) for path in pod.rootfs.rglob("*") if not path.is_dir()}
    _expect("the whole", found, set(_SEEN))


_SEEN: Final = {"kept": b"kept", "changed": b"after", "merged/kept": b"kept", "merged/new": b"new"}


def _fill_base(root: Path) -> None:
    for name in ("merged", "replaced"):
        (root / name).mkdir()
    for name in ("removed", "merged/removed", "replaced/hidden"):
        (root / name).touch()
    for name in ("kept", "changed", "merged/kept"):
        (root / name).write_bytes(b"kept")
    with contextlib.suppress(OSError):  # a user without subordinate ids has no second one
        os.chown(root / "merged/kept", 1, 1)


def _fill_top(root: Path) -> None:
    for name in ("removed", "merged/removed", "replaced/hidden"):
        (root / name).unlink()
    (root / "replaced").rmdir()
    (root / "replaced").mkdir()
    (root / "changed").write_bytes(b"after")
    (root / "merged/new").write_bytes(b"new")


def _expect(name: str, found: object, expected: object) -> None:
    if found != expected:
        raise UnsupportedError(f"a trial gave {found!r} in place of {expected!r} for {name}", code="driver-wrong")
