"""Take images and blobs away: only what no listed image needs, and nothing that work in progress holds."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.errors import ConflictError, IntegrityError, NotFoundError
from micropod_img.models import DeleteResult
from micropod_img.store.closure import closure
from micropod_img.store.images import ImageStore, distinct_entries, part_of_index
from micropod_img.store.index import Entry, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.store.images import Record
    from micropod_img.store.store import Store


def remove_images(
    store: Store,
    names: Sequence[str],
    *,
    force: bool = False,
    guard: Callable[[frozenset[Digest]], None] | None = None,
) -> DeleteResult:
    """Drop images from the index, all of them or none, then free what no other image needs.

    Args:
        store: The store.
        names: References, digests, or unique prefixes of digests.
        force: Pass over names that are unknown, and drop an image by digest also where several references name it.
        guard: Told of the digests of images that nothing names any more; raises, and nothing is removed.

    Raises:
        NotFoundError: A name is unknown.
        UsageError: A prefix fits several digests.
        ConflictError: A digest is named by several references.
    """
    return store.freeing(lambda: _remove_images(store, names, force=force, guard=guard))


def _remove_images(
    store: Store,
    names: Sequence[str],
    *,
    force: bool,
    guard: Callable[[frozenset[Digest]], None] | None,
) -> DeleteResult:
    store.prepare()
    images = ImageStore(store)
    # The trash is emptied after the lock is gone: unlinking gigabytes takes longer than others should wait.
    with store.stage("trash") as trash, store.index_transaction("rmi") as transaction:
        trash.probe_filesystem()
        doomed: list[Entry] = []
        for name in names:
            doomed += _entries(images, name, force=force)
        kept = without(transaction.index, lambda entry: entry in doomed)
        if guard is not None:
            guard(_images_of(images, doomed) - _images_of(images, kept.entries))
        freed = _needed_only_by(store, doomed, kept.entries)
        transaction.replace(kept)
        discarded = _discard(store, freed, trash.path)
        labels = [entry.reference or entry.digest for entry in doomed]
        labels += [entry.digest for entry in doomed if entry.digest in discarded]
        return DeleteResult(tuple(dict.fromkeys(labels)), sum(discarded.values()))


def collect_garbage(store: Store) -> DeleteResult:
    """Remove every blob that no listed image needs and no work in progress holds.

    Raises:
        IntegrityError: An image is damaged, so that nobody can know which blobs it needs; nothing is removed.
    """
    return store.freeing(lambda: _collect_garbage(store))


def _collect_garbage(store: Store) -> DeleteResult:
    store.prepare()
    with store.stage("trash") as trash, store.index_transaction("gc") as transaction:
        trash.probe_filesystem()
        live = _needed_by(store, transaction.index.entries)
        discarded = _discard(store, (digest for digest in store.blobs.sizes() if digest not in live), trash.path)
        return DeleteResult(tuple(discarded), sum(discarded.values()))


def _entries(images: ImageStore, name: str, *, force: bool) -> Sequence[Entry]:
    try:
        records = images.lookup(name)
    except NotFoundError:
        if force:
            return ()
        raise
    entries = distinct_entries(records)
    if not force:
        _refuse_ambiguous(name, records, entries)
    return entries


def _refuse_ambiguous(name: str, records: Sequence[Record], entries: Sequence[Entry]) -> None:
    references = sorted({entry.reference for entry in entries})
    if len(references) > 1:
        raise ConflictError(
            f"{name} has several references here: {', '.join(reference or '<none>' for reference in references)}",
            code="several-references",
            hint="remove one by its reference, or all of them with --force",
        )
    part = part_of_index(name, records)
    if part is not None:
        whole = part.entry.reference or part.entry.digest
        raise ConflictError(
            f"{name} is one platform of {whole}, which was pulled with --all-platforms",
            code="part-of-an-index",
            hint=f"remove all of it: micropod-img rmi {whole}",
        )


def _images_of(images: ImageStore, entries: Iterable[Entry]) -> frozenset[Digest]:
    return frozenset(record.digest for record in images.records(entries))


def _needed_by(store: Store, entries: Iterable[Entry]) -> set[Digest]:
    needed: set[Digest] = set()
    for entry in entries:
        try:
            needed.update(closure(store.blobs, entry))
        except IntegrityError as error:
            raise IntegrityError(
                f"{entry.reference or entry.digest} is damaged, and which blobs it needs is unknown: {error.message}",
                code=error.code,
                hint="pull it again, or remove it with rmi; nothing was removed now",
            ) from error
    return needed


def _needed_only_by(store: Store, doomed: Iterable[Entry], kept: Iterable[Entry]) -> list[Digest]:
    try:
        live = _needed_by(store, kept)
    except IntegrityError:
        return []  # the damaged image may need any of them; gc says so
    freed: dict[Digest, int] = {}
    for entry in doomed:
        # A damaged image goes all the same; what cannot be known to be its own is left to gc.
        with contextlib.suppress(IntegrityError):
            freed.update(closure(store.blobs, entry))
    return [digest for digest in freed if digest not in live]


def _discard(store: Store, blobs: Iterable[Digest], trash: Path) -> dict[Digest, int]:
    """Move blobs that no work in progress holds to the trash; return those, with the bytes that this frees."""
    discarded: dict[Digest, int] = {}
    for digest in blobs:
        path = store.layout.blob(digest)
        if store.blobs.held_elsewhere(digest):
            continue
        with fsutil.disk_errors(path), contextlib.suppress(FileNotFoundError):
            moved = trash / path.name
            try:
                path.rename(moved)
            except OSError as error:
                if error.errno not in fsutil.NO_SPACE:
                    raise
                # The trash would have to grow. Who links the blob just now keeps it, and puts it back.
                discarded[digest] = path.lstat().st_size
                path.unlink()
                continue
            status = moved.lstat()
            if status.st_nlink > 1:  # somebody linked it between the look and the rename, and counts on it
                with contextlib.suppress(FileExistsError):  # published anew meanwhile: that one is held by who did it
                    os.link(moved, path)
                store.blobs.sync()
            else:
                discarded[digest] = status.st_size
    return discarded
