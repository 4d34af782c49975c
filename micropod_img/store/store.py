"""One store: its paths, blobs and index, opened for reading or made ready for writing."""

from __future__ import annotations

import contextlib
from copy import copy
from typing import TYPE_CHECKING, TypedDict, TypeVar

from micropod_img import fsutil
from micropod_img.errors import ConflictError, DiskError, IntegrityError, NotFoundError
from micropod_img.locks import LockTimeoutError, Patience, locked, signed
from micropod_img.store.blobs import VERIFY_HINT, BlobStore
from micropod_img.store.index import LayoutIndex, parse_index, serialize
from micropod_img.store.layout import StoreLayout
from micropod_img.store.reserve import Reserve
from micropod_img.store.staging import Staging, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Unpack

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.locks import WaitObserver
    from micropod_img.store.blobs import FileIdentity


_Done = TypeVar("_Done")

# Each is one index that was replaced while it was read; what is damaged is read as often, and then said to be.
_MOST_READINGS = 16


class IndexTransaction:
    """The index while nobody else can change it.

    Args:
        layout: Where it is.
        index: What it says.
    """

    def __init__(self, layout: StoreLayout, index: LayoutIndex) -> None:
        self._layout = layout
        self.index = index

    def replace(self, index: LayoutIndex) -> None:
        """Write another index, durably and at once; only then may what it no longer lists be taken away."""
        if index != self.index:
            write_index(self._layout, index)
            self.index = index


class FetchWait(TypedDict, total=False):
    """How the lock of what another process fetches is waited for.

    Attributes:
        on_busy: Called at once when there is a holder.
        timeout: Seconds to wait at most.
        cancellation: Ends the wait.
    """

    on_busy: Callable[[], None] | None
    timeout: float | None
    cancellation: Cancellation | None


class Store:
    """The images of one state directory.

    Args:
        root: The state directory, absolute; it need not exist before something is written.
        damaged: Whether a store whose version file is torn will do, as for one that is to be verified.
        bad: Blobs that are not what their names say; see `BlobStore`.
        on_wait: Is told of waits for its locks.

    Raises:
        ConflictError: It is no store but an OCI layout.
        IntegrityError: Its version file is torn.
        UnsupportedError: It has a newer format than this program knows.
        DiskError: It belongs to somebody else, or cannot be read.
    """

    def __init__(
        self,
        root: Path,
        *,
        damaged: bool = False,
        bad: Mapping[Digest, FileIdentity] | None = None,
        on_wait: WaitObserver | None = None,
    ) -> None:
        self.on_wait = on_wait
        self.layout = StoreLayout(root)
        self.layout.check(damaged=damaged)
        self.blobs = BlobStore(self.layout, bad)
        self._reserve = Reserve(self.layout.reserve)

    def telling(self, on_wait: WaitObserver) -> Store:
        """Return this very store, which tells somebody else of waits for its locks."""
        told = copy(self)
        told.on_wait = on_wait
        return told

    def prepare(self) -> None:
        """Make the store if it is not there, fill its reserve, and sweep what killed processes left."""
        self.layout.prepare(self.on_wait)
        self._reserve.fill()
        sweep(self.layout, self.blobs)

    def freeing(self, action: Callable[[], _Done]) -> _Done:
        """Do what frees space: on a full disk once more, with what is reserved for that.

        Args:
            action: Changes nothing where it ends for want of space, or all; what it was to remove is then not found.
        """
        try:
            return action()
        except DiskError as error:
            if error.code != fsutil.DISK_FULL or not self._reserve.release():
                raise
            full = error
        try:
            return action()
        except NotFoundError:
            raise full from None  # the first time it was done, and could not be made durable
        finally:
            self._reserve.restore()

    def read_index(self) -> LayoutIndex:
        """Return what the index says; that of a store which was not made yet is empty.

        Raises:
            IntegrityError: It is torn, or somebody removed it.
        """
        path = self.layout.index
        with fsutil.disk_errors(path):
            with contextlib.suppress(FileNotFoundError):
                return parse_index(path.read_bytes(), name=str(path))
            if not self.layout.version.exists():
                return LayoutIndex((), {})
            try:  # once more: the version is written after the index, maybe just now
                return parse_index(path.read_bytes(), name=str(path))
            except FileNotFoundError as error:
                raise IntegrityError(
                    f"{path} is missing, and with it which images there are",
                    code="missing-index",
                    hint=f"put it back; or {VERIFY_HINT}, which lists the images that are here",
                ) from error

    def indexes(self) -> Iterator[LayoutIndex]:
        """Yield the index; and again, as often as it was replaced while the caller read what it lists.

        Removal takes an image from the index before it takes its blobs, and publication does the reverse. So what
        cannot be read under an index that stayed is damaged; else somebody removed it, and the next index says so.

        Raises:
            IntegrityError: As `read_index`.
        """
        for _ in range(_MOST_READINGS):
            try:
                stream = self.layout.index.open("rb")
            except OSError:
                yield self.read_index()
                return
            with stream:
                with fsutil.disk_errors(self.layout.index):
                    content = stream.read()
                yield parse_index(content, name=str(self.layout.index))
                # As long as it is open, no later index can have its inode number.
                if fsutil.same_file(stream.fileno(), self.layout.index):
                    return

    @contextlib.contextmanager
    def index_transaction(
        self, owner: str, *, timeout: float | None = None, cancellation: Cancellation | None = None
    ) -> Iterator[IndexTransaction]:
        """Hold the index lock.

        Args:
            owner: What is being done, for those who wait.
            timeout: Seconds to wait at most.
            cancellation: Ends the wait.

        Raises:
            ConflictError: Another process still holds it when the time is over.
        """
        with self.index_lock(owner, timeout=timeout, cancellation=cancellation):
            yield IndexTransaction(self.layout, self.read_index())

    def index_lock(
        self, owner: str, *, timeout: float | None = None, cancellation: Cancellation | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the index lock, whatever the index says; see `index_transaction`."""
        patience = Patience("the index", self.on_wait, timeout=timeout, cancellation=cancellation)
        return self._locked(self.layout.index_lock, patience, owner)

    def stage(self, purpose: str) -> Staging:
        """Return a private place for work in progress, a context manager."""
        return Staging(self.layout, purpose)

    def image_lock(
        self, digest: Digest, owner: str, **waiting: Unpack[FetchWait]
    ) -> contextlib.AbstractContextManager[None]:
        """Be the one process that fetches an image; taken before the locks of its blobs. See `blob_lock`."""
        return self._fetch_lock(self.layout.image_lock(digest), f"image {digest}", owner, **waiting)

    def blob_lock(
        self, digest: Digest, owner: str, **waiting: Unpack[FetchWait]
    ) -> contextlib.AbstractContextManager[None]:
        """Be the one process that fetches a blob.

        Args:
            digest: The blob.
            owner: What is being done, for those who wait.
            **waiting: How it is waited for.

        Raises:
            ConflictError: Another process still holds it when the time is over.
        """
        return self._fetch_lock(self.layout.blob_lock(digest), f"blob {digest}", owner, **waiting)

    @contextlib.contextmanager
    def _fetch_lock(
        self,
        path: Path,
        subject: str,
        owner: str,
        *,
        on_busy: Callable[[], None] | None = None,
        timeout: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> Iterator[None]:
        with self._locked(path, Patience(subject, self.on_wait, on_busy, timeout, cancellation), owner):
            yield

    @contextlib.contextmanager
    def _locked(self, path: Path, patience: Patience, owner: str) -> Iterator[None]:
        try:
            with fsutil.disk_errors(path), locked(path, patience, owner=signed(owner)):
                yield
        except LockTimeoutError as error:
            raise ConflictError(
                f"{error} has locked {patience.subject} all the time",
                code="locked",
                hint="wait for it, end it, or allow more with --timeout",
                retryable=True,
            ) from error


def write_index(layout: StoreLayout, index: LayoutIndex) -> None:
    """Write an index, durably and at once, in the place of what is there; only for whoever holds the index lock."""
    with Staging(layout, "index") as staging:
        fsutil.replace_durably(layout.index, serialize(index), staging=staging.path / "index.json")
