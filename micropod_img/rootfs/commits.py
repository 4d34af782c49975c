"""Snapshots get their names when they are durable, in their order, while the next one of the image is being made."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from micropod_img import fsutil
from micropod_img.rootfs.syscalls import sync_filesystem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from types import TracebackType

    from micropod_img.rootfs.chain import ChainId
    from micropod_img.store.layout import StoreLayout


class Commits:
    """The snapshots of one image on their way to their names; what was begun has ended when the ``with`` block has.

    Args:
        layout: The store's paths.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._names = threading.Lock()
        self._unnamed: dict[ChainId, Path] = {}
        self._begun: list[Future[None]] = []
        self._failed = contextlib.ExitStack()
        self._has_failed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._failed.close()
        if error is None:
            self.raise_error(wait=True)

    @contextlib.contextmanager
    def files(self, chain: Sequence[ChainId]) -> Iterator[tuple[Path, ...]]:
        """Tell where the files of snapshots are, bottom to top; nothing of that changes until the block ends."""
        with self._names:
            yield tuple(self._unnamed.get(one, self._layout.snapshot(one)) / "fs" for one in chain)

    def begin(self, chain: ChainId, made: Path, held: contextlib.ExitStack) -> None:
        """Begin to make a snapshot durable, and to give it its name.

        Args:
            chain: Its chain ID; the snapshot below it has its name, or was begun before.
            made: Its directory, in which nothing changes any more.
            held: What is let go of at the end, with or without success.
        """
        with self._names:
            self._unnamed[chain] = made
        self._begun.append(self._executor.submit(self._commit, chain, made, held))

    def raise_error(self, *, wait: bool = False) -> None:
        """Raise what kept a snapshot from its name.

        Args:
            wait: Whether for those that go on too.

        Raises:
            DiskError: It could not be made durable.
        """
        for commit in self._begun:
            if wait or commit.done():
                commit.result()

    def _commit(self, chain: ChainId, made: Path, held: contextlib.ExitStack) -> None:
        place = self._layout.snapshot(chain)
        if self._has_failed:  # with the one below this one, which says why
            self._failed.push(held)
            return
        try:
            with fsutil.disk_errors(made):
                # umoci makes nothing durable, and a layer's names and bytes are many: all of the filesystem is asked.
                sync_filesystem(made)
                with self._names:
                    made.rename(place)
                    del self._unnamed[chain]
                fsutil.fsync_directory(place.parent)
        except BaseException:
            # Kept to the end: the next layer is being applied over it, and would fail with an error that tells less.
            self._failed.push(held)
            self._has_failed = True
            raise
        held.close()
