"""Put snapshots and pods right: only those that are wrong are made again, and none that something mounted is made of.

A snapshot is made of layers whose digests and diff IDs are checked as they are unpacked. So a layer that went bad later
says nothing of it, and it stays.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.errors import MicropodError
from micropod_img.problems import Repair
from micropod_img.rootfs.chain import ChainId
from micropod_img.rootfs.collection import mounted_snapshots, snapshots_at_work
from micropod_img.rootfs.drivers.choice import DriverSelection
from micropod_img.rootfs.drivers.driver import PodPaths
from micropod_img.rootfs.drivers.metadata import make_root
from micropod_img.rootfs.leases import no_new_leases
from micropod_img.rootfs.pods import Pods
from micropod_img.rootfs.verification import images_of_chains, readable_pods
from micropod_img.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from micropod_img.models import Image
    from micropod_img.problems import Problem
    from micropod_img.rootfs.snapshots import Call, Snapshots
    from micropod_img.store.store import Store

_BAD = frozenset({"changed-snapshot", "incomplete-snapshot"})
_MISSING = frozenset({"missing-snapshot", "broken-chain"})
_REMADE = frozenset({"rootfs", "work"})  # directories of a pod in which nothing of it is kept


class RootfsRepair:
    """The repair of snapshots and pods of one store.

    Args:
        store: The store, its images repaired.
        snapshots: Returns what makes snapshots, when one must be made.
        call: Who is told of what could not be put right.
    """

    def __init__(self, store: Store, snapshots: Callable[[], Snapshots], call: Call) -> None:
        self.repaired: list[Repair] = []
        self._store = store
        self._layout = store.layout
        self._snapshots = snapshots
        self._call = call

    def run(self, problems: Iterable[Problem]) -> None:
        """Put right what can be."""
        problems = tuple(problems)
        if any(problem.code == "corrupt-driver" for problem in problems):
            self._driver()
        bad = dict.fromkeys(ChainId(one.digest) for one in problems if one.code in _BAD and one.digest)
        lacking = dict.fromkeys(ChainId(one.digest) for one in problems if one.code in _MISSING and one.digest)
        if bad or lacking:
            self._chains(bad, lacking)
        for problem in problems:
            if problem.code == "incomplete-pod":
                self._pod_directory(self._layout.root / problem.path, problem.pods[0])

    def _driver(self) -> None:
        path = self._layout.snapshot_driver
        used = {record.driver for record in readable_pods(self._store)}
        selection = DriverSelection(self._store)
        if len(used) == 1:
            (name,) = used
            selection.rewrite(name)
            self._note(
                "rewrote-driver", f"{path} says again that snapshots are made with {name}, as the pods were", path
            )
        elif not used and not snapshots_at_work(self._store):
            selection.forget()
            self._note("removed-snapshots", f"removed all snapshots and {path}, which did not say whose they are", path)
        else:
            self._tell(f"{path} stays torn: there are pods of several drivers, or snapshots are in use")

    def _chains(self, bad: Collection[ChainId], lacking: Collection[ChainId]) -> None:
        images = images_of_chains(self._store)
        used = {chain: record.id for record in readable_pods(self._store) for chain in record.chain_ids}
        for chain in dict.fromkeys((*bad, *lacking)):
            if chain in images and chain in bad:
                self._make_again(chain, images[chain][0])
            elif chain in images:
                self._complete(chain, images[chain][0])
            elif chain in used:
                self._tell(
                    f"snapshot {chain} is of no image here: pull the image of pod {used[chain]}, and repair again"
                )
            else:
                self._remove(chain)

    def _mounted(self) -> dict[ChainId, str]:
        """Return the snapshots that something mounted is made of, and what that is."""
        mounted = dict.fromkeys(mounted_snapshots(self._layout), "something that is mounted")
        pods = Pods(self._store)
        for record in readable_pods(self._store):
            if record.driver != "copy" and pods.get(record.id).mounted:
                mounted |= dict.fromkeys(record.chain_ids, f"pod {record.id}")
        return mounted

    def _make_again(self, chain: ChainId, image: Image) -> None:
        """Move a snapshot aside, make it again, and move it back if that fails."""
        place = self._layout.snapshot(chain)
        with self._store.stage("repair") as staging:
            aside = staging.path / "bad"
            try:
                if not self._move(chain, aside):
                    return
                self._ensure(image)
            except MicropodError as error:
                self._tell(f"snapshot {chain} could not be made again: {error.message}")
                return
            finally:
                if aside.exists() and not place.exists():  # it failed, or was interrupted
                    aside.rename(place)
            remove_tree(aside)
        self._note("remade-snapshot", f"made snapshot {chain} of {image.ref or image.digest} again", place, image)

    def _complete(self, chain: ChainId, image: Image) -> None:
        try:
            self._ensure(image)
        except MicropodError as error:
            self._tell(f"snapshot {chain} could not be made again: {error.message}")
            return
        place = self._layout.snapshot(chain)
        self._note("completed-chain", f"the snapshots of {image.ref or image.digest} are all there again", place, image)

    def _ensure(self, image: Image) -> None:
        with self._store.stage("repair") as lease:
            self._snapshots().ensure(image, lease, self._call)

    def _remove(self, chain: ChainId) -> None:
        place = self._layout.snapshot(chain)
        with self._store.stage("trash") as trash:
            if self._move(chain, trash.path / "snapshot"):
                remove_tree(trash.path / "snapshot")
                self._note("removed-snapshot", f"removed snapshot {chain}, which nothing needs", place)

    def _move(self, chain: ChainId, target: Path) -> bool:
        """Move a snapshot, unless somebody uses it or is about to; return whether it was moved."""
        with no_new_leases(self._layout) as leased, fsutil.disk_errors(target):
            if chain in leased:
                self._tell(f"snapshot {chain} is about to be used: repair again")
                return False
            mounted = self._mounted()
            if chain in mounted:
                self._tell(f"snapshot {chain} is in use by {mounted[chain]}: unmount that, and repair again")
                return False
            try:
                self._layout.snapshot(chain).rename(target)
            except FileNotFoundError:
                return False
            return True

    def _pod_directory(self, directory: Path, pod_id: str) -> None:
        if directory.name not in _REMADE or directory.parent != PodPaths(self._layout.pod(pod_id)).directory:
            self._tell(f"pod {pod_id} has lost what it wrote: micropod-img pod rm {pod_id}")
            return
        if os.path.lexists(directory):
            self._tell(f"{directory} is no directory: move it away, and repair again")
            return
        with fsutil.disk_errors(directory):
            make_root(directory, None)
        self._note("remade-directory", f"pod {pod_id} has its directory {directory.name} again", directory)

    def _note(self, code: str, message: str, path: Path, image: Image | None = None) -> None:
        images = () if image is None else (image.ref or image.digest,)
        self.repaired.append(Repair(code, message, str(path), images))

    def _tell(self, message: str) -> None:
        self._call.tell(message)
