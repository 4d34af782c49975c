"""The part of `micropod_img.service.ImageService` that says whether a store is as it should be, and puts it right."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import TYPE_CHECKING

from micropod_img import progress as events
from micropod_img.cancellation import Cancellation
from micropod_img.errors import IntegrityError, MicropodError
from micropod_img.rootfs_service import RootFilesystemService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.digest import Digest
    from micropod_img.problems import Repair, Verification
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.job import PullJob
    from micropod_img.pull.options import PullOptions
    from micropod_img.store.repair.repair import Lost, StoreRepair
    from micropod_img.store.store import Store
    from micropod_img.store.verification.verify import StoreVerification


# A repository that is unknown may be one that a stranger must not know of.
_NOBODY_HAS_IT = frozenset({"manifest-unknown", "blob-unknown", "no-reference"})


class VerificationService(RootFilesystemService):
    """Use cases that look at a whole store."""

    _store: Store

    @abstractmethod
    def _job(
        self, options: PullOptions, sink: ProgressSink, cancellation: Cancellation, store: Store | None = None
    ) -> PullJob:
        """Return what pulls for one call."""

    def verify(self, *, progress: ProgressSink | None = None) -> Verification:
        """Read every blob, and check the index, every image, snapshot and pod; nothing is changed.

        Others may use the store meanwhile: what they make and remove is no problem.

        Args:
            progress: Is told of progress.

        Returns:
            What is wrong, the worst first.

        Raises:
            DiskError: The store cannot be read.
        """
        with self._verifying(progress) as (verification, _, _):
            return self._verified(verification, ())

    def repair(self, options: PullOptions | None = None, *, progress: ProgressSink | None = None) -> Verification:
        """Verify, put right what can be, and verify again.

        Only what is bad is fetched again, by digest and from where its image came from; a bad blob stays until the good
        one is here. An entry of the index is dropped only if its image can be fetched from nowhere any more.

        Args:
            options: How registries are reached, as for a pull.
            progress: Is told of progress, and of what could not be put right.

        Returns:
            What was done, and what is still wrong.

        Raises:
            DiskError: The store cannot be written.
        """
        from micropod_img.pull.options import PullOptions  # noqa: PLC0415 - the same
        from micropod_img.rootfs.snapshots import Call  # noqa: PLC0415 - the same
        from micropod_img.store.repair.repair import StoreRepair  # noqa: PLC0415 - the same
        from micropod_img.store.waits import observer  # noqa: PLC0415 - not on the start-up path of a pull

        with self._verifying(progress) as (verification, sink, cancellation):
            before = self._verified(verification, ())
            if not (before.problems or before.unlisted):
                return before
            repair = StoreRepair(self._store.telling(observer(sink)), verification)
            repair.files(before.problems)
            repair.index()
            repair.drop(self._fetch_again(repair, options or PullOptions(), sink, cancellation))
            repair.adopt(self._names_of_pods())
            repair.remove_unneeded()
            # Images are whole by now, and snapshots can be made of them.
            trees = self._root_filesystems().repair(before.problems, Call("", sink, cancellation))
            return self._verified(verification, (*repair.repaired, *trees))

    @contextlib.contextmanager
    def _verifying(
        self, progress: ProgressSink | None
    ) -> Iterator[tuple[StoreVerification, ProgressSink, Cancellation]]:
        from micropod_img.store.verification.verify import StoreVerification  # noqa: PLC0415 - as above

        if self._store.layout.snapshots.exists():  # an ordinary user's hold files of other ids
            with contextlib.suppress(IntegrityError):  # of a torn version file, which is a problem like others
                self._root_filesystems().enter_user_namespace()
        cancellation = Cancellation()
        sink = events.serialized(progress or events.silent)
        try:
            yield StoreVerification(self._store, sink, cancellation), sink, cancellation
        finally:
            cancellation.cancel()  # an interrupt reaches this thread, and not those that read

    def _verified(self, verification: StoreVerification, repaired: tuple[Repair, ...]) -> Verification:
        from micropod_img.problems import Verification, in_order  # noqa: PLC0415 - as above
        from micropod_img.rootfs.verification import verify_root_filesystems  # noqa: PLC0415 - the same
        from micropod_img.store.verification.layout import leftovers  # noqa: PLC0415 - the same

        found = verification.run()
        trees = verify_root_filesystems(self._store)
        return Verification(
            problems=in_order([*found.problems, *trees.problems]),
            repaired=repaired,
            images=len(found.index.entries),
            blobs=verification.blobs.count,
            blob_bytes=verification.blobs.bytes_read,
            snapshots=trees.snapshots,
            pods=trees.pods,
            unlisted=found.unlisted,
            leftovers=leftovers(self._store.layout),
        )

    def _names_of_pods(self) -> dict[Digest, str]:
        from micropod_img.rootfs.verification import readable_pods  # noqa: PLC0415 - as above

        return {record.image_digest: record.ref for record in readable_pods(self._store)}

    def _fetch_again(
        self, repair: StoreRepair, options: PullOptions, sink: ProgressSink, cancellation: Cancellation
    ) -> list[Lost]:
        """Fetch what is bad of each damaged image; return those that can be had nowhere."""
        from micropod_img.store.repair.repair import Lost  # noqa: PLC0415 - as above
        from micropod_img.store.store import Store  # noqa: PLC0415 - the same
        from micropod_img.store.verification.index import label  # noqa: PLC0415 - the same

        lost: list[Lost] = []
        for entry in repair.damaged_entries():
            if not repair.is_damaged(entry):  # it shared a blob with one that was fetched
                continue
            job = self._job(options, sink, cancellation, Store(self._store.layout.root, bad=repair.bad_blobs()))
            try:
                repair.note_fetched(entry, job.restore(entry))
            except MicropodError as error:
                if error.code in _NOBODY_HAS_IT:
                    lost.append(Lost(entry.digest, label(entry), error.message))
                    continue
                message = f"{entry.reference} cannot be fetched again now: {error.message}"
                sink(events.Notice(entry.reference, message))
        return lost
