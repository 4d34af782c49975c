"""Leases on snapshots: who is about to use them says so in its staging place, and nothing takes them while that is.

A lease is written while the directory of snapshots is locked by many, and read while it is locked by one: so whoever
finds a snapshot after writing a lease on it keeps it, though it holds no lock any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.digest import Digest
from micropod_img.rootfs.chain import ChainId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from micropod_img.store.layout import StoreLayout
    from micropod_img.store.staging import Staging

_FILE = "snapshots-in-use"


def lease(layout: StoreLayout, staging: Staging, chain: Iterable[ChainId]) -> None:
    """Keep snapshots, those that are here and those to come, for as long as a staging place exists."""
    with fsutil.disk_errors(layout.snapshots), _lock(layout, fcntl.LOCK_SH):
        (staging.path / _FILE).write_text("\n".join(chain))


@contextlib.contextmanager
def no_new_leases(layout: StoreLayout) -> Iterator[frozenset[ChainId]]:
    """Lock the directory of snapshots alone; yield which snapshots have a lease."""
    with fsutil.disk_errors(layout.snapshots), _lock(layout, fcntl.LOCK_EX):
        yield frozenset(_leased(layout))


def _leased(layout: StoreLayout) -> Iterator[ChainId]:
    # A lease of a process that was killed counts until it is swept; that keeps too much rather than too little.
    for directory in layout.staging.iterdir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for line in (directory / _FILE).read_text().split():
                yield ChainId(Digest(line))


@contextlib.contextmanager
def _lock(layout: StoreLayout, kind: int) -> Iterator[None]:
    fsutil.make_directory(layout.snapshots)
    descriptor = os.open(layout.snapshots, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
