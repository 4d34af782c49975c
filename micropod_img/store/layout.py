"""Where everything of a store is: the one source of truth for its paths (CONTRACT.md, "Store on disk")."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.digest import Digest, hex_of
from micropod_img.errors import ConflictError, DiskError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
"""The store format that this program writes."""

_OCI_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}\n'
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

    def blob(self, digest: Digest) -> Path:
        """The file of a sha256 blob."""
        return self.blobs / hex_of(digest)

    def blob_lock(self, digest: Digest) -> Path:
        """Held by the one process that fetches this blob."""
        return self.locks / f"blob-{hex_of(digest)}.lock"

    def exists(self) -> bool:
        """Whether there is a store, or a layout of another tool that can be one."""
        return self.index.exists()

    def check(self) -> None:
        """Refuse a store that must not be used, before anything of it is believed.

        Raises:
            UnsupportedError: Its format is newer than this program.
            DiskError: It belongs to somebody else, or cannot be read.
        """
        with fsutil.disk_errors(self.root):
            try:
                status = self.root.stat()
            except FileNotFoundError:
                return
            if status.st_uid != os.geteuid():
                raise DiskError(
                    f"{self.root} belongs to user {status.st_uid}, and you are user {os.geteuid()}",
                    code="foreign-store",
                    hint="run as its owner, or choose another --root",
                )
            try:
                text = self.version.read_text("ascii", "replace").strip()
            except FileNotFoundError:
                return
        if not text.isdecimal() or int(text) < 1:
            raise UnsupportedError(
                f"{self.version} does not name a store format: {text[:40]!r}",
                code="store-format",
                hint=f"if the store is of this program, write {FORMAT} into it",
            )
        if int(text) > FORMAT:
            raise UnsupportedError(
                f"{self.root} has store format {text}, and this program knows formats up to {FORMAT}",
                code="store-format",
                hint="use a newer micropod-img, or another --root",
            )

    def prepare(self) -> None:
        """Make what is missing of the store, so that it can be written.

        Raises:
            ConflictError: The directory holds something that is not a store.
            UnsupportedError: See `check`.
            DiskError: See `check`; or it cannot be written.
        """
        self.check()
        if self.version.exists() and self.locks.exists():
            return
        with fsutil.disk_errors(self.root):
            self._refuse_what_is_no_store()
            fsutil.make_directory(self.root)
            self.root.chmod(0o700)
            fsutil.make_directory(self.locks)
            with fsutil.locked(self.locks / "prepare.lock", owner="making the store"):
                for directory in (self.staging, self.images, self.blobs.parent, self.blobs):
                    fsutil.make_directory(directory)
                self._write_once(self.images / "oci-layout", _OCI_LAYOUT)
                self._write_once(self.index, _EMPTY_INDEX)
                self._write_once(self.version, f"{FORMAT}\n".encode())
            fsutil.fsync_directory(self.images)
            fsutil.fsync_directory(self.root)

    def _refuse_what_is_no_store(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            names = {path.name for path in self.root.iterdir()}
            if not names or names & {"version", "locks"} or (self.images / "oci-layout").exists():
                return
            is_layout = "oci-layout" in names
            raise ConflictError(
                f"{self.root} is {'an OCI layout' if is_layout else 'not empty'} and not a micropod store",
                code="not-a-store",
                hint=f"move the layout to {self.images}" if is_layout else "choose an empty directory as --root",
            )

    def _write_once(self, path: Path, content: bytes) -> None:
        if not path.exists():
            fsutil.replace_durably(path, content, staging=self.locks / f"{path.name}.new")
