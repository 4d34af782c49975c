"""Where everything of a store is: the one source of truth for its paths (CONTRACT.md, "Store on disk")."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.digest import Digest, hex_of
from micropod_img.errors import ConflictError, DiskError, IntegrityError, UnsupportedError
from micropod_img.locks import Patience, locked, signed

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.locks import WaitObserver

FORMAT = 1
"""The store format that this program writes."""

OURS = frozenset({"version", "images", "snapshots", "pods", "tmp", "locks", "damaged", "reserve"})
"""The names in a state directory."""

_LONGEST_FORMAT = 9

OCI_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}\n'
_EMPTY_INDEX = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}\n'


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """The paths of one store.

    Args:
        root: Its state directory, absolute.
    """

    root: Path

    @property
    def version(self) -> Path:
        """The file that names the store format."""
        return self.root / "version"

    @property
    def images(self) -> Path:
        """The OCI image layout."""
        return self.root / "images"

    @property
    def index(self) -> Path:
        """The one source of truth for which images exist."""
        return self.images / "index.json"

    @property
    def blobs(self) -> Path:
        """The directory of blobs, each named by its sha256."""
        return self.images / "blobs" / "sha256"

    @property
    def staging(self) -> Path:
        """Private places of work in progress; garbage once no process holds its lock."""
        return self.root / "tmp"

    @property
    def locks(self) -> Path:
        """Lock files."""
        return self.root / "locks"

    @property
    def index_lock(self) -> Path:
        """Held while the index is rewritten, or blobs are taken away."""
        return self.locks / "index.lock"

    @property
    def damaged(self) -> Path:
        """What a repair took away and nobody may need any more, for people to look at; made when there is any."""
        return self.root / "damaged"

    @property
    def reserve(self) -> Path:
        """Space that is set aside for when the disk is full."""
        return self.root / "reserve"

    @property
    def snapshots(self) -> Path:
        """The committed snapshots, each named by its chain ID."""
        return self.root / "snapshots"

    @property
    def snapshot_links(self) -> Path:
        """Short names of snapshots, for kernels whose mount options are one page."""
        return self.snapshots / "l"

    @property
    def snapshot_driver(self) -> Path:
        """What the snapshots were made with, and why."""
        return self.snapshots / "driver.json"

    @property
    def pods(self) -> Path:
        """The pods, each named by its id."""
        return self.root / "pods"

    def empty_snapshot(self, name: str = "empty") -> Path:
        """Make, if it is missing, a directory with nothing in it, for overlays that need one."""
        path = self.snapshots / name
        with fsutil.disk_errors(path):
            fsutil.make_directory(path, mode=0o755)
        return path

    def make_pods(self) -> None:
        """Make the directory of pods if it is missing; its name is durable then."""
        if not self.pods.is_dir():
            fsutil.make_directory(self.pods)
            fsutil.fsync_directory(self.root)

    def snapshot(self, chain: Digest) -> Path:
        """The snapshot of a chain ID; its files are in ``fs``."""
        return self.snapshots / hex_of(chain)

    def snapshot_lock(self, chain: Digest) -> Path:
        """Held by the one process that makes this snapshot."""
        return self.locks / f"snapshot-{hex_of(chain)}.lock"

    def pod(self, pod_id: str) -> Path:
        """The directory of a pod."""
        return self.pods / pod_id

    def blob(self, digest: Digest) -> Path:
        """The file of a sha256 blob."""
        return self.blobs / hex_of(digest)

    def blob_lock(self, digest: Digest) -> Path:
        """Held by the one process that fetches this blob."""
        return self.locks / f"blob-{hex_of(digest)}.lock"

    def image_lock(self, digest: Digest) -> Path:
        """Held by the one process that fetches an image: of another name than a blob's, which may have its digest."""
        return self.locks / f"image-{hex_of(digest)}.lock"

    def is_begun(self) -> bool:
        """Whether there is anything of a store, or of a layout of another tool, and not just some directory."""
        return any(path.exists() for path in (self.version, self.index, self.images / "oci-layout", self.blobs))

    def exists(self) -> bool:
        """Whether there is a store, or a layout of another tool that can be one."""
        return self.index.exists()

    def check(self, *, damaged: bool = False) -> None:
        """Refuse a store that must not be used, before anything of it is believed.

        Args:
            damaged: Whether a store whose version file is torn will do.

        Raises:
            ConflictError: It is no store but an OCI layout.
            IntegrityError: Its version file is torn.
            UnsupportedError: Its format is newer than this program.
            DiskError: It belongs to somebody else, or cannot be read.
        """
        with fsutil.disk_errors(self.root):
            try:
                self._refuse_foreign()
            except FileNotFoundError:
                return
            try:
                text = self.version.read_text("ascii", "replace").strip()
            except FileNotFoundError:
                if (self.root / "oci-layout").exists():
                    raise self._is_a_layout() from None
                return
        if not text.isdecimal() or int(text[:_LONGEST_FORMAT]) < 1:
            if damaged:
                return
            raise IntegrityError(
                f"{self.version} does not name a store format: {text[:40]!r}",
                code="corrupt-version",
                hint=f"micropod-img verify --repair writes it again, if {self.root} is a store",
            )
        if int(text[:_LONGEST_FORMAT]) > FORMAT:
            raise UnsupportedError(
                f"{self.root} has store format {text[:40]}, and this program knows formats up to {FORMAT}",
                code="store-format",
                hint="use a newer micropod-img, or another --root",
            )

    def prepare(self, on_wait: WaitObserver | None = None) -> None:
        """Make what is missing of the store, so that it can be written.

        Args:
            on_wait: Is told of a wait for another process that does the same.

        Raises:
            ConflictError: The directory holds something that is not a store.
            UnsupportedError: See `check`.
            DiskError: See `check`; or it cannot be written.
        """
        self.check()
        self._keep_others_out()
        # Paths of ours that somebody removed are made again; the index is not, as an empty one would disown every blob.
        with fsutil.disk_errors(self.root):
            if all(path.exists() for path in (self.version, self.locks, self.staging, self.blobs)):
                return
            self.refuse_what_is_no_store()
            self._make_root()
            fsutil.make_directory(self.locks)
            patience = Patience("the new store", on_wait)
            with locked(self.locks / "prepare.lock", patience, owner=signed("making the store")):
                for directory in (self.staging, self.images, self.blobs.parent, self.blobs):
                    fsutil.make_directory(directory)
                fsutil.fsync_directory(self.blobs.parent)
                if not self.version.exists():
                    self._write_once(self.images / "oci-layout", OCI_LAYOUT)
                    self._write_once(self.index, _EMPTY_INDEX)
                    self._write_once(self.version, f"{FORMAT}\n".encode())
            fsutil.fsync_directory(self.images)
            fsutil.fsync_directory(self.root)

    def refuse_what_is_no_store(self) -> None:
        """Refuse to make a store of somebody's directory: whatever is in its ``tmp`` would be swept.

        Raises:
            ConflictError: The directory holds something that is not a store.
            DiskError: It cannot be read.
        """
        with fsutil.disk_errors(self.root), contextlib.suppress(FileNotFoundError):
            names = {path.name for path in self.root.iterdir()} - {"lost+found"}  # of a filesystem made for the store
            was_begun = "locks" in names or ("tmp" not in names and (self.images / "oci-layout").exists())
            if not names or {"version", "images"} <= names or (was_begun and names <= OURS):
                return
            raise ConflictError(
                f"{self.root} is not empty and not a micropod store",
                code="not-a-store",
                hint="choose an empty directory as --root",
            )

    def _make_root(self) -> None:
        if not self.root.is_dir():
            fsutil.make_directory(self.root)
            self._refuse_foreign()  # in a directory like /tmp somebody else may just have made it
            with contextlib.suppress(PermissionError):  # a parent that may be passed through, and not be read
                fsutil.fsync_directory(self.root.parent)
        self.root.chmod(0o700)

    def _refuse_foreign(self) -> None:
        owner = self.root.stat().st_uid
        if owner != os.geteuid():
            raise DiskError(
                f"{self.root} belongs to user {owner}, and you are user {os.geteuid()}",
                code="foreign-store",
                hint="run as its owner, or choose another --root",
            )

    def _keep_others_out(self) -> None:
        """Take back what others may do with a store that somebody opened or copied: it holds setuid files."""
        with contextlib.suppress(OSError):  # of a filesystem that is read-only, where nothing can be prepared anyway
            if self.version.exists() and self.root.stat().st_mode & 0o077:
                self.root.chmod(0o700)

    def _is_a_layout(self) -> ConflictError:
        return ConflictError(
            f"{self.root} is an OCI layout and not a micropod store",
            code="not-a-store",
            hint=f"move the layout to {self.images}, or choose another --root",
        )

    def _write_once(self, path: Path, content: bytes) -> None:
        if not path.exists():
            fsutil.replace_durably(path, content, staging=self.locks / f"{path.name}.new")
