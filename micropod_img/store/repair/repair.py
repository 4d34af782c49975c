"""Put a store right, step by step; each step is whole by itself, and may be the last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.problems import Repair
from micropod_img.store.index import LayoutIndex
from micropod_img.store.repair.entries import Mending
from micropod_img.store.repair.files import FileRepair, copy_aside
from micropod_img.store.repair.salvage import salvaged_entries
from micropod_img.store.store import write_index
from micropod_img.store.verification.images import ImageVerification
from micropod_img.store.verification.index import label

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from micropod_img.digest import Digest
    from micropod_img.problems import Problem
    from micropod_img.store.blobs import FileIdentity
    from micropod_img.store.index import Entry
    from micropod_img.store.store import Store
    from micropod_img.store.verification.verify import Findings, StoreVerification

_TORN = frozenset({"missing-index", "corrupt-index", "corrupt-entry"})


@dataclass(frozen=True, slots=True)
class Lost:
    """An image that can be had nowhere: the digest of its entry, what it is called, and why."""

    digest: Digest
    name: str
    why: str


class StoreRepair:
    """The repair of one store.

    Args:
        store: The store.
        verification: Has read its blobs.
    """

    def __init__(self, store: Store, verification: StoreVerification) -> None:
        self.repaired: list[Repair] = []
        self._store = store
        self._layout = store.layout
        self._verification = verification

    def files(self, problems: tuple[Problem, ...]) -> None:
        """Put version, marks, modes and owners right, and take away what can be no blob."""
        missing = {problem.digest for problem in problems if problem.code == "missing-blob"}
        repair = FileRepair(self._store, frozenset(digest for digest in missing if digest is not None))
        repair.marks(problems)
        self._store.prepare()
        repair.others(problems)
        self.repaired += repair.repaired

    def index(self) -> None:
        """Put the index right, as far as something of it can be read."""
        self._verification.read_new()
        with self._store.index_lock("verify --repair"):
            found = self._look_again()
            torn = [problem for problem in found.problems if problem.code in _TORN]
            salvaged = self._salvaged() if torn and not found.index.entries else ()
            entries = found.index.entries or salvaged
            images = ImageVerification(self._store, self._verification.blobs, entries) if salvaged else found.images
            mending = Mending(entries, images, self._verification.blobs, self._layout.index)
            mending.run()
            if torn:
                self._note_torn(torn, salvaged)
            if torn or mending.repaired:
                self._write(found, mending)

    def drop(self, lost: Collection[Lost]) -> None:
        """Take the entries of lost images from the index, unless they are whole by now."""
        if not lost:
            return
        with self._store.index_lock("verify --repair"):
            found = self._look_again()
            mending = Mending(found.index.entries, found.images, self._verification.blobs, self._layout.index)
            why = {(one.digest, one.name): one.why for one in lost}
            for entry in found.index.entries:
                reason = why.get((entry.digest, label(entry)))
                if reason is not None and not found.images.is_whole(entry):
                    mending.drop(entry, reason)
            if mending.repaired:
                self._keep_index()
                self._write(found, mending)

    def adopt(self, names: Mapping[Digest, str]) -> None:
        """List the whole images that nothing lists.

        Args:
            names: References that are known from elsewhere, by the digest of the image.
        """
        with self._store.index_lock("verify --repair"):
            found = self._look_again()
            if any(entry.is_index and not found.images.type_of(entry) for entry in found.index.entries):
                return  # they may be those of an index that could not be fetched now
            mending = Mending(found.index.entries, found.images, self._verification.blobs, self._layout.index)
            for digest in found.unlisted:
                if not self._store.blobs.held_elsewhere(digest):  # of a pull that is about to list it
                    mending.adopt(digest, names)
            if mending.repaired:
                self._write(found, mending)

    def remove_unneeded(self) -> None:
        """Remove what stands in the places of blobs, is none, and is needed by nothing."""
        with self._store.index_lock("verify --repair"):
            found = self._look_again()
            for problem in found.problems:
                if problem.code != "corrupt-blob" or problem.images or problem.digest is None:
                    continue
                if not self._store.blobs.held_elsewhere(problem.digest):
                    path = self._layout.blob(problem.digest)
                    with fsutil.disk_errors(path):
                        path.unlink(missing_ok=True)
                    what = f"removed {problem.digest}, which was none and which nothing needs"
                    self.repaired.append(Repair("removed-blob", what, str(path)))

    def damaged_entries(self) -> tuple[Entry, ...]:
        """Return the entries that are not here with all that they need."""
        found = self._look_again()
        return tuple(entry for entry in found.index.entries if not found.images.is_whole(entry))

    def is_damaged(self, entry: Entry) -> bool:
        """Whether an entry still is not here with all that it needs, after blobs were fetched."""
        self._verification.read_new()
        return not self._verification.look().images.is_whole(entry)

    def note_fetched(self, entry: Entry, downloaded: int) -> None:
        """Take note that what was bad of an entry's image was fetched again.

        Args:
            entry: The entry.
            downloaded: Bytes of layers and configurations that this took.
        """
        what = f"fetched what was bad of {label(entry)} again, by its digest, {downloaded} bytes of blobs"
        path = str(self._layout.blob(entry.digest))
        self.repaired.append(Repair("fetched-image", what, path, (label(entry),)))

    def bad_blobs(self) -> Mapping[Digest, FileIdentity]:
        """Return the files that stand in the places of blobs and are none."""
        blobs = self._verification.blobs
        return {digest: file.status for digest, file in blobs.files.items() if blobs.fault(digest) is not None}

    def _look_again(self) -> Findings:
        self._verification.blobs.list_files()
        return self._verification.look()

    def _salvaged(self) -> tuple[Entry, ...]:
        try:
            return salvaged_entries(self._layout.index.read_bytes())
        except FileNotFoundError:
            return ()

    def _note_torn(self, torn: list[Problem], salvaged: tuple[Entry, ...]) -> None:
        kept = self._keep_index()
        where = "" if kept is None else f"; what it was is kept as {kept}"
        count = f", {len(salvaged)} of them from what was left of it" if salvaged else ""
        what = f"wrote {self._layout.index} again, with the images that are known{count}{where}"
        path = str(self._layout.index)
        self.repaired.append(Repair("rebuilt-index", what, path))
        for problem in torn:
            if problem.code == "corrupt-entry":
                self.repaired.append(Repair("dropped-entry", f"{problem.message}: dropped", path, problem.images))

    def _keep_index(self) -> str | None:
        try:
            content = self._layout.index.read_bytes()
        except FileNotFoundError:
            return None
        return str(copy_aside(self._layout, "index.json", content))

    def _write(self, found: Findings, mending: Mending) -> None:
        with fsutil.disk_errors(self._layout.index):
            write_index(self._layout, LayoutIndex(tuple(mending.entries), found.index.members))
        self.repaired += mending.repaired
