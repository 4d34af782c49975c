"""The part of `micropod_img.service.ImageService` that says whether a store is as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img import progress as events
from micropod_img.cancellation import Cancellation
from micropod_img.rootfs_service import RootFilesystemService

if TYPE_CHECKING:
    from micropod_img.problems import Verification
    from micropod_img.progress import ProgressSink
    from micropod_img.store.store import Store


class VerificationService(RootFilesystemService):
    """Use cases that look at a whole store."""

    _store: Store

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
        from micropod_img.problems import Verification, in_order  # noqa: PLC0415 - not on the start-up path of a pull
        from micropod_img.rootfs.verification import verify_root_filesystems  # noqa: PLC0415 - the same
        from micropod_img.store.verification.layout import leftovers  # noqa: PLC0415 - the same
        from micropod_img.store.verification.verify import StoreVerification  # noqa: PLC0415 - the same

        if self._store.layout.snapshots.exists():  # an ordinary user's hold files of other ids
            self._root_filesystems().enter_user_namespace()
        cancellation = Cancellation()
        verification = StoreVerification(self._store, events.serialized(progress or events.silent), cancellation)
        try:
            found = verification.run()
        finally:
            cancellation.cancel()  # an interrupt reaches this thread, and not those that read
        trees = verify_root_filesystems(self._store)
        return Verification(
            problems=in_order([*found.problems, *trees.problems]),
            repaired=(),
            images=len(found.index.entries),
            blobs=verification.blobs.count,
            blob_bytes=verification.blobs.bytes_read,
            snapshots=trees.snapshots,
            pods=trees.pods,
            unlisted=found.unlisted,
            leftovers=leftovers(self._store.layout),
        )
