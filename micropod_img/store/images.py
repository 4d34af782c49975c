"""Which images the store holds: index entries, expanded to one record for each platform, read back from blobs."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from micropod_img import media_types
from micropod_img.digest import hex_of
from micropod_img.errors import IntegrityError, MicropodError, NotFoundError, UnsupportedError, UsageError
from micropod_img.models import Image, Layer
from micropod_img.platforms import Platform, is_unknown, normalize, select
from micropod_img.reference import Reference
from micropod_img.store.blobs import REPAIR_HINT, missing_blob
from micropod_img.store.closure import is_of_others
from micropod_img.store.documents import (
    StoredConfig,
    StoredDescriptor,
    StoredIndex,
    StoredManifest,
    corrupt,
    read_config,
    read_document,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from micropod_img.digest import Digest
    from micropod_img.store.index import Entry, LayoutIndex
    from micropod_img.store.store import Store

_Read = TypeVar("_Read")

_SHORTEST_PREFIX = 4
_DIGEST_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Record:
    """One image for one platform, and the index entry that lists it (its own, or that of the whole index)."""

    entry: Entry
    digest: Digest
    size: int
    media_type: str
    platform: Platform | None


class ImageStore:
    """The images of a store.

    Args:
        store: The store.
        index: What is listed; if None what the store's index says at each call.
    """

    def __init__(self, store: Store, index: LayoutIndex | None = None) -> None:
        self._store = store
        self._blobs = store.blobs
        self._index = index

    def consistently(self, read: Callable[[ImageStore], _Read]) -> _Read:
        """Return what is read of the images under one index; again, where that was replaced and the reading failed.

        Args:
            read: Is given the images as one index lists them.

        Raises:
            MicropodError: As ``read``, of an index that stayed as it was.
        """
        failure: MicropodError | None = None
        for index in self._store.indexes():
            try:
                return read(ImageStore(self._store, index))
            except (IntegrityError, NotFoundError) as error:
                failure = error
        assert failure is not None  # noqa: S101 - for the type checker: there is one index at least
        raise failure

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is listed."""
        return (self._store.read_index() if self._index is None else self._index).entries

    def records(self, entries: Iterable[Entry]) -> Iterator[Record]:
        """Yield the images that entries list, those of a whole index one by one; what is no image is left out.

        A whole index that cannot be read, or none of whose images is here, yields a record of itself, and whoever reads
        that image is told why.
        """
        for entry in entries:
            if is_of_others(self._blobs, entry):
                continue
            listed = list(self._records_of_index(entry, entry.digest, entry.size)) if entry.is_index else ()
            yield from listed or [Record(entry, entry.digest, entry.size, entry.media_type, entry.platform)]

    def _records_of_index(self, entry: Entry, digest: Digest, size: int) -> Iterator[Record]:
        try:
            document = read_document(self._blobs.read(digest, size=size), f"index {digest}")
        except IntegrityError:
            return
        for child in document.manifests if isinstance(document, StoredIndex) else ():
            if child.media_type in media_types.INDEXES:
                yield from self._records_of_index(entry, child.digest, child.size)
            elif self._is_image_here(child):
                yield Record(entry, child.digest, child.size, child.media_type, child.platform)

    def _is_image_here(self, child: StoredDescriptor) -> bool:
        # Another tool may have copied an index with some of its images only; attestations are for no platform.
        if not self._blobs.exists(child.digest):
            return False
        if child.platform is not None:
            return not is_unknown(child.platform)
        try:
            document = read_document(self._blobs.read(child.digest, size=child.size), f"manifest {child.digest}")
        except IntegrityError:
            return True  # and whoever reads it is told why
        return isinstance(document, StoredManifest) and document.is_image

    def image(self, record: Record) -> Image:
        """Read an image back from its blobs: bytes of manifest and configuration, sizes of layers are checked.

        Raises:
            IntegrityError: Something of it is missing or corrupt.
            UnsupportedError: It is an artifact.
        """
        manifest = self.manifest(record)
        if not manifest.is_image:
            raise UnsupportedError(
                f"{_named(record)} is an artifact ({manifest.config.media_type}), not a container image",
                code="not-an-image",
            )
        config = self._config(record, manifest)
        layers = tuple(
            Layer(layer.digest, diff_id, layer.media_type, layer.size)
            for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        )
        for layer in layers:
            if not self._blobs.has(layer.digest, layer.size):
                raise IntegrityError(
                    f"{_named(record)}: layer {layer.digest} is missing or cut short",
                    code="missing-blob",
                    hint="pull the image again: only what is bad is fetched",
                )
        return Image(
            ref=record.entry.reference,
            digest=record.digest,
            index_digest=record.entry.index_digest,
            media_type=record.media_type or media_types.OCI_MANIFEST,
            platform=normalize(record.platform or config.platform),
            config_digest=manifest.config.digest,
            layer_details=layers,
            size=record.size + manifest.config.size + sum({layer.digest: layer.size for layer in layers}.values()),
            created=_time(config.created),
            pulled_at=_time(record.entry.pulled_at),
            last_used_at=self._last_used(record),
        )

    def manifest(self, record: Record) -> StoredManifest:
        """Read an image's manifest.

        Raises:
            IntegrityError: It is missing, corrupt, or no image's.
        """
        document = read_document(self._blobs.read(record.digest, size=record.size), f"manifest {record.digest}")
        if record.entry.is_index and record.digest == record.entry.digest:
            raise IntegrityError(
                f"{_named(record)} is an index of images, and none of them is here",
                code="missing-blob",
                hint=REPAIR_HINT,
            )
        if not isinstance(document, StoredManifest):
            raise corrupt(f"manifest {record.digest}", "it is an index")
        return document

    def _config(self, record: Record, manifest: StoredManifest) -> StoredConfig:
        content = self._blobs.read(manifest.config.digest, size=manifest.config.size)
        config = read_config(content, f"configuration {manifest.config.digest}")
        if len(config.diff_ids) != len(manifest.layers):
            raise IntegrityError(
                f"{_named(record)} has {len(manifest.layers)} layers and {len(config.diff_ids)} diff IDs",
                code="diff-id-count",
            )
        return config

    def find(self, reference: Reference) -> list[Record]:
        """Return the images of a reference: by its digest (of a manifest or an index) if it has one, else by name."""
        entries = self.entries
        if reference.digest is None:
            return list(self.records(entry for entry in entries if entry.reference == str(reference)))
        wanted = reference.digest
        exact = [entry for entry in entries if entry.reference == str(reference)]
        named = [entry for entry in entries if _repository(entry) == reference.name]
        for candidates in (exact, named):
            found = [
                record
                for record in self.records(candidates)
                if wanted in (record.digest, record.entry.digest, record.entry.index_digest)
            ]
            if found:
                return found
        return []

    def lookup(self, text: str) -> list[Record]:
        """Return the images that a user means by a reference, a digest, or a unique prefix of a digest.

        Args:
            text: A reference; ``sha256:`` and hex digits; or four hex digits at least.

        Raises:
            InvalidReference: The text is none of these.
            NotFoundError: Nothing here is called so.
            UsageError: The prefix fits several digests.
        """
        digits = text.removeprefix("sha256:")
        is_digest = _SHORTEST_PREFIX <= len(digits) <= _DIGEST_LENGTH and not digits.strip("0123456789abcdef")
        if not (is_digest and (digits != text or len(digits) == _DIGEST_LENGTH)):
            found = self.find(Reference.parse(text))
            if found:
                return found
            if not is_digest:
                raise not_here(text)
        found = self._by_prefix(text, f"sha256:{digits}")
        if not found:
            raise not_here(text)
        return found

    def _by_prefix(self, text: str, prefix: str) -> list[Record]:
        found: list[Record] = []
        digests: set[Digest] = set()
        for record in self.records(self.entries):
            for digest in (record.digest, record.entry.index_digest):
                if digest is not None and digest.startswith(prefix):
                    found.append(record)
                    digests.add(digest)
                    break
        if len(digests) > 1:
            raise UsageError(
                f"{text} is the beginning of {len(digests)} digests: {', '.join(sorted(digests))}",
                code="ambiguous-digest",
                hint="give more digits",
            )
        return found

    def choose(self, records: Sequence[Record], wanted: Platform, *, strict: bool = False) -> Record | None:
        """Return the image for a platform, never one for another that merely is here.

        An image that may run on the wanted platform, but is not exactly for it, counts only if the index that it came
        from has none that fits better, and if ``strict`` is false.
        """
        known: list[tuple[Record, Platform]] = []
        for record in records:
            with contextlib.suppress(IntegrityError):  # a damaged image is none to choose
                known.append((record, self.platform_of(record)))
        for record, platform in known:
            if select(wanted, [platform], strict=True) is not None:
                return record
        if strict:
            return None
        for record, platform in known:
            if self._is_best_of_its_index(record, platform, wanted):
                return record
        return None

    def platform_of(self, record: Record) -> Platform:
        """Return what an image runs on: as its index entry says, else as its configuration says."""
        if record.platform is not None:
            return normalize(record.platform)
        return normalize(self._config(record, self.manifest(record)).platform)

    def _is_best_of_its_index(self, record: Record, platform: Platform, wanted: Platform) -> bool:
        top = record.entry.index_digest
        if top is None:
            return select(wanted, [platform]) is not None
        try:
            listed = list(self._listed(top))
        except IntegrityError:  # the index was not kept, so nobody knows what else it had
            return False
        platforms = [
            platform if one.digest == record.digest else one.platform or Platform("unknown", "unknown")
            for one in listed
        ]
        best = select(wanted, platforms)
        return best is not None and listed[best].digest == record.digest

    def _listed(self, digest: Digest) -> Iterator[StoredDescriptor]:
        document = read_document(self._blobs.read(digest), f"index {digest}")
        for child in document.manifests if isinstance(document, StoredIndex) else ():
            if child.media_type in media_types.INDEXES:
                yield from self._listed(child.digest)
            else:
                yield child

    def used(self, image: Image) -> Image:
        """Note, as the time of its manifest's file, that an image was used; the index stays as it is."""
        path = self._store.layout.blob(image.digest)
        try:
            os.utime(path)
            return replace(image, last_used_at=datetime.fromtimestamp(path.stat().st_mtime, UTC))
        except OSError:  # a store that may only be read is used all the same
            return image

    def _last_used(self, record: Record) -> datetime:
        path = self._store.layout.blob(record.digest)
        try:
            return datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except FileNotFoundError as error:
            raise missing_blob(record.digest) from error


def distinct_entries(records: Iterable[Record]) -> tuple[Entry, ...]:
    """Return the index entries that list some images, each once."""
    entries: list[Entry] = []
    for record in records:
        if record.entry not in entries:
            entries.append(record.entry)
    return tuple(entries)


def part_of_index(text: str, records: Sequence[Record]) -> Record | None:
    """Return the one image that a digest, or a prefix of one, means of a whole index; None if it means no part of one.

    Args:
        text: What the user wrote.
        records: What `ImageStore.lookup` found for it.
    """
    digits = text.rpartition("@")[2].removeprefix("sha256:")
    first = records[0]
    is_part = first.entry.is_index and first.digest != first.entry.digest and hex_of(first.digest).startswith(digits)
    return first if is_part else None


def _repository(entry: Entry) -> str:
    return Reference.parse(entry.reference).name if entry.reference else ""


def _named(record: Record) -> str:
    return record.entry.reference or f"image {record.digest}"


def not_here(text: str) -> NotFoundError:
    """Return the error for a name that no image here has."""
    return NotFoundError(
        f"no image here is called {text}", code="image-not-found", hint="micropod-img images lists what is here"
    )


def _time(text: str) -> datetime | None:
    """Return a time (RFC 3339) in UTC, so that each can be compared with now; None for what is none."""
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
