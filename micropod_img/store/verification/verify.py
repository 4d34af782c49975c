"""Look at all of a store but its snapshots and pods, beside others that use it, and without a false alarm.

Reading takes long, and is done without any lock. Where something seems to be wrong, all but the reading of blobs is
done once more under the index lock: what vanished or appeared meanwhile was no problem.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img.errors import DiskError
from micropod_img.store.verification.blobs import BlobVerification
from micropod_img.store.verification.images import ImageVerification
from micropod_img.store.verification.index import ReadIndex, entry_problems, read_index
from micropod_img.store.verification.layout import layout_problems
from micropod_img.store.waits import observer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.problems import Problem
    from micropod_img.progress import ProgressSink
    from micropod_img.store.store import Store

_MOST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found.

    Attributes:
        problems: In no order.
        index: What of the index could be read.
        images: What is known of the images that it lists.
        unlisted: Images, and whole indexes, that are here with all they need, and that nothing lists.
    """

    problems: tuple[Problem, ...]
    index: ReadIndex
    images: ImageVerification
    unlisted: tuple[Digest, ...]


class StoreVerification:
    """The verification of one store.

    Args:
        store: The store.
        sink: Is told of progress.
        cancellation: Ends the work.
    """

    def __init__(self, store: Store, sink: ProgressSink, cancellation: Cancellation) -> None:
        self._store = store
        self._sink = sink
        self._cancellation = cancellation
        self.blobs = BlobVerification(store.layout, sink, cancellation)

    def run(self) -> Findings:
        """Look at everything."""
        self.read_new()
        findings = self.look()
        if not findings.problems:
            return findings
        with self._locked_if_possible():
            self.blobs.list_files()
            return self.look()

    def read_new(self) -> None:
        """Read all blobs that were not read yet."""
        for _ in range(_MOST_ROUNDS):  # what others publish meanwhile is read as well, but not for ever
            self.blobs.list_files()
            if not self.blobs.read_all():
                return

    def look(self) -> Findings:
        """Look at everything but the bytes of blobs, which `run` has read."""
        layout = self._store.layout
        problems = list(layout_problems(layout, self.blobs))
        try:
            content = layout.index.read_bytes()
        except FileNotFoundError:
            content = None
        except OSError:
            content = b""
        if content is None and not layout.version.exists():
            index = ReadIndex((), {}, ())  # nothing was ever listed here
        else:
            index = read_index(content, layout.index)
        images = ImageVerification(self._store, self.blobs, index.entries)
        problems += index.problems
        problems += entry_problems(index.entries, layout.index, images.platform_of)
        problems += images.problems()
        return Findings(tuple(problems), index, images, tuple(images.unlisted()))

    @contextlib.contextmanager
    def _locked_if_possible(self) -> Iterator[None]:
        """Keep others from changing the index; in a store that may only be read nobody can."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(DiskError):
                store = self._store.telling(observer(self._sink))
                held.enter_context(store.index_lock("verify", cancellation=self._cancellation))
            yield
