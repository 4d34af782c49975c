"""Leases on snapshots: who is about to use them says so in its staging place, and nothing takes them while that is.

A lease is written while the directory of snapshots is locked by many, and read while it is locked by one: so whoever
finds a snapshot after writing a lease on it keeps it, though it holds no lock any more.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.digest import Digest
from micropod_img.locks import Patience, locked_directory
from micropod_img.rootfs.chain import ChainId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from micropod_img.locks import WaitObserver
    from micropod_img.store.layout import StoreLayout
    from micropod_img.store.staging import Staging

_FILE = "snapshots-in-use"


def lease(layout: StoreLayout, staging: Staging, chain: Iterable[ChainId], on_wait: WaitObserver | None = None) -> None:
    """Keep snapshots, those that are here and those to come, for as long as a staging place exists.

    Args:
        layout: The store's paths.
        staging: That place.
        chain: Their chain IDs.
        on_wait: Is told of a wait for a garbage collection.
    """
    with _locked(layout, on_wait, shared=True):
        (staging.path / _FILE).write_text("\n".join(chain))


@contextlib.contextmanager
def no_new_leases(layout: StoreLayout, on_wait: WaitObserver | None = None) -> Iterator[frozenset[ChainId]]:
    """Lock the directory of snapshots alone; yield which snapshots have a lease."""
    with _locked(layout, on_wait, shared=False):
        yield frozenset(_leased(layout))


def _leased(layout: StoreLayout) -> Iterator[ChainId]:
    # A lease of a process that was killed counts until it is swept; that keeps too much rather than too little.
    for directory in layout.staging.iterdir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for line in (directory / _FILE).read_text().split():
                yield ChainId(Digest(line))


@contextlib.contextmanager
def _locked(layout: StoreLayout, on_wait: WaitObserver | None, *, shared: bool) -> Iterator[None]:
    with fsutil.disk_errors(layout.snapshots):
        fsutil.make_directory(layout.snapshots)
        with locked_directory(layout.snapshots, Patience("the list of snapshots in use", on_wait), shared=shared):
            yield
