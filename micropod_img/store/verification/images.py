"""What is wrong with the images that an index lists: each document, and each blob that one of them names."""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from micropod_img import media_types
from micropod_img.errors import IntegrityError
from micropod_img.platforms import normalize
from micropod_img.problems import Problem
from micropod_img.store.blobs import DOCUMENT_LIMIT
from micropod_img.store.documents import (
    StoredConfig,
    StoredIndex,
    StoredManifest,
    members_of,
    read_config,
    read_document,
)
from micropod_img.store.verification.index import label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from micropod_img.digest import Digest
    from micropod_img.platforms import Platform
    from micropod_img.store.documents import StoredDescriptor
    from micropod_img.store.index import Entry
    from micropod_img.store.store import Store
    from micropod_img.store.verification.blobs import BlobVerification


@dataclass(frozen=True, slots=True)
class _Need:
    """A blob that a document, or the index, says that it needs."""

    digest: Digest
    size: int | None
    by: str
    of_entry: bool


class ImageVerification:
    """The images of one index.

    Args:
        store: The store.
        blobs: Its blobs, listed and read.
        entries: Those of the index.
    """

    def __init__(self, store: Store, blobs: BlobVerification, entries: Sequence[Entry]) -> None:
        self._layout = store.layout
        self._store = store
        self._blobs = blobs
        self._entries = entries
        self._documents: dict[Digest, StoredManifest | StoredIndex | None] = {}
        self._configs: dict[Digest, StoredConfig | None] = {}
        self._wrong: dict[Digest, tuple[str, str]] = {}
        self._users: dict[Digest, dict[str, None]] = {}
        self._needs: dict[Digest, dict[_Need, None]] = {}
        self._problems: list[Problem] = []
        for entry in entries:
            self._look_at(entry)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with entries, documents and blobs, and whom it hurts."""
        yield from self._problems
        for digest, (code, what) in self._wrong.items():
            if digest in self._users:
                yield self._problem(code, what, digest)
        for digest in self._needs:
            if digest not in self._blobs.files:
                yield self._problem("missing-blob", f"blob {digest} is missing", digest)
        for digest, file in self._blobs.files.items():
            fault = self._blobs.fault(digest)
            sizes = {need.size for need in self._needs.get(digest, ()) if need.size is not None}
            if fault is not None:
                short = stat.S_ISREG(file.mode) and sizes and file.size not in sizes
                what = f"has {file.size} of {max(sizes)} bytes" if short and file.size < max(sizes) else fault.what
                yield self._problem(fault.code, f"blob {digest} {what}", digest)
            else:
                yield from self._size_problems(digest, file.size)

    def platform_of(self, entry: Entry) -> Platform | None:
        """Return what an entry's image runs on, as the entry or else the configuration says; None if nobody knows."""
        if entry.platform is not None:
            return entry.platform
        document = self._document(entry.digest)
        config = self._config(document) if isinstance(document, StoredManifest) else None
        return config.platform if config is not None and config.platform.architecture else None

    def type_of(self, entry: Entry) -> str:
        """Return the media type that the document of an entry really has; the empty string if nobody knows."""
        document = self._document(entry.digest)
        if document is None:
            return ""
        own = members_of(self._content(entry.digest) or b"{}", f"blob {entry.digest}").text("mediaType")
        types = media_types.INDEXES if isinstance(document, StoredIndex) else media_types.MANIFESTS
        default = media_types.OCI_INDEX if isinstance(document, StoredIndex) else media_types.OCI_MANIFEST
        return own if own in types else default

    def right_platform(self, entry: Entry) -> Platform | None:
        """Return the platform that an entry should be listed for; None for a whole index, and where nobody knows."""
        document = self._document(entry.digest)
        if not isinstance(document, StoredManifest):
            return None
        listed = entry.platform
        if listed is not None and listed.os and listed.architecture:
            return self._other_platform(entry, listed, document) or listed
        return self.platform_of(replace(entry, platform=None))

    def is_whole(self, entry: Entry) -> bool:
        """Whether everything that an entry needs is here and as it should be."""
        sizes: dict[Digest, int | None] = {entry.digest: entry.size}
        if entry.index_digest is not None and entry.pulled_at:
            sizes.setdefault(entry.index_digest, None)
        sizes.update((digest, size) for digest, size, _ in self._below(entry.digest, sparse=not entry.pulled_at))
        return self._are_here(sizes) and self._wrong.keys().isdisjoint(sizes)

    def indexes_of(self, digest: Digest) -> tuple[Digest, ...]:
        """Return the indexes among the documents read so far that list an image."""
        return tuple(
            sorted(
                index
                for index, document in self._documents.items()
                if isinstance(document, StoredIndex) and any(child.digest == digest for child in document.manifests)
            )
        )

    def images_of(self, index: Digest) -> tuple[Digest, ...]:
        """Return the images of an index, also of those in it, that are here with all they need."""
        return tuple(
            dict.fromkeys(
                child.digest
                for child in self._descendants(index)
                if child.digest in self._blobs.files
                and isinstance(self._document(child.digest), StoredManifest)
                and self._is_complete(child.digest)
            )
        )

    def unlisted(self) -> Iterator[Digest]:
        """Yield the images, and whole indexes, that are here with all they need, and that no entry leads to."""
        orphans = [digest for digest in self._blobs.files if digest not in self._users and self._is_complete(digest)]
        below = {one for digest in orphans for one in self._closure(digest) if one != digest}
        yield from (digest for digest in orphans if digest not in below)

    def users(self, digest: Digest) -> tuple[str, ...]:
        """Return the names of the images that need a blob."""
        return tuple(sorted(self._users.get(digest, ())))

    def _look_at(self, entry: Entry) -> None:
        name = label(entry)
        self._need(_Need(entry.digest, entry.size, "its entry in the index", of_entry=True), name)
        top = entry.index_digest
        if top is not None and top != entry.digest and entry.pulled_at:
            self._need(_Need(top, None, "its entry in the index", of_entry=True), name)
        known = entry.media_type in media_types.INDEXES | media_types.MANIFESTS
        document = self._document(entry.digest)
        if document is None:
            if not known:  # to be ignored, says the spec (image-index.md, "manifests", mediaType)
                self._wrong.pop(entry.digest, None)
            return
        self._look_at_descriptor(entry, document)
        for digest, size, by in self._below(entry.digest, sparse=not entry.pulled_at):
            self._need(_Need(digest, size, by, of_entry=False), name)

    def _look_at_descriptor(self, entry: Entry, document: StoredManifest | StoredIndex) -> None:
        is_index = isinstance(document, StoredIndex)
        if entry.media_type not in (media_types.INDEXES if is_index else media_types.MANIFESTS):
            said = entry.media_type or "nothing"
            self._entry_problem(
                "entry-media-type", entry, f"is listed as {said} and is {'an index' if is_index else 'a manifest'}"
            )
        if entry.platform is None or isinstance(document, StoredIndex):
            return
        if not (entry.platform.os and entry.platform.architecture):
            self._entry_problem("entry-platform", entry, "is listed for half a platform")
            return
        wrong = self._other_platform(entry, entry.platform, document)
        if wrong is not None:
            self._entry_problem("entry-platform", entry, f"is listed for {entry.platform} and is for {wrong}")

    def _other_platform(self, entry: Entry, listed: Platform, document: StoredManifest) -> Platform | None:
        top = entry.index_digest
        if top is not None:
            for child in self._descendants(top):
                if child.digest == entry.digest and child.platform is not None:
                    return None if _same(child.platform, listed) else child.platform
        config = self._config(document)
        if config is None or not config.platform.architecture or top is not None:
            return None
        # Indexes know more of variants than configurations do, and the index may not be here.
        own = normalize(config.platform)
        return None if (own.os, own.architecture) == (listed.os, normalize(listed).architecture) else own

    def _below(self, top: Digest, *, sparse: bool) -> Iterator[tuple[Digest, int, str]]:
        """Yield every blob that a document leads to, its size, and what says so.

        Args:
            top: The document.
            sparse: Whether images of an index that are not here do not count: what other tools copy is like that.
        """
        seen: set[Digest] = set()
        todo = [top]
        while todo:
            digest = todo.pop()
            if digest in seen:
                continue
            seen.add(digest)
            document = self._document(digest)
            if isinstance(document, StoredManifest):
                self._look_at_image(digest, document)
                for one in (document.config, *document.layers):
                    yield one.digest, one.size, f"manifest {digest}"
            elif document is not None:
                for child in document.manifests:
                    if not sparse or child.digest in self._blobs.files:
                        yield child.digest, child.size, f"index {digest}"
                        if child.media_type in media_types.INDEXES | media_types.MANIFESTS | {""}:
                            todo.append(child.digest)

    def _look_at_image(self, digest: Digest, manifest: StoredManifest) -> None:
        if not manifest.is_image:
            return
        config = self._config(manifest)
        if config is not None and len(config.diff_ids) != len(manifest.layers):
            what = f"{len(manifest.layers)} layers, and its configuration {len(config.diff_ids)} diff IDs"
            self._wrong[digest] = ("diff-id-count", f"manifest {digest} has {what}")

    def _descendants(self, top: Digest) -> Iterator[StoredDescriptor]:
        seen: set[Digest] = set()
        todo = [top]
        while todo:
            digest = todo.pop()
            document = self._document(digest) if digest not in seen else None
            seen.add(digest)
            for child in document.manifests if isinstance(document, StoredIndex) else ():
                yield child
                if child.media_type in media_types.INDEXES:
                    todo.append(child.digest)

    def _document(self, digest: Digest) -> StoredManifest | StoredIndex | None:
        if digest not in self._documents:
            self._documents[digest] = None
            content = self._content(digest)
            if content is not None:
                try:
                    self._documents[digest] = read_document(content, f"blob {digest}")
                except IntegrityError as error:
                    self._wrong[digest] = ("corrupt-document", error.message)
        return self._documents[digest]

    def _config(self, manifest: StoredManifest) -> StoredConfig | None:
        digest = manifest.config.digest
        if digest not in self._configs:
            self._configs[digest] = None
            content = self._content(digest)
            if content is not None:
                try:
                    self._configs[digest] = read_config(content, f"configuration {digest}")
                except IntegrityError as error:
                    self._wrong[digest] = ("corrupt-document", error.message)
        return self._configs[digest]

    def _content(self, digest: Digest) -> bytes | None:
        """Return the bytes of a document that is here and whole."""
        file = self._blobs.files.get(digest)
        if file is None or self._blobs.fault(digest) is not None or file.size > DOCUMENT_LIMIT:
            return None
        try:
            return self._store.blobs.read(digest)
        except IntegrityError:  # it changed since it was listed; the next look knows more
            return None

    def _need(self, need: _Need, name: str) -> None:
        self._users.setdefault(need.digest, {})[name] = None
        self._needs.setdefault(need.digest, {})[need] = None

    def _size_problems(self, digest: Digest, size: int) -> Iterator[Problem]:
        for need in self._needs.get(digest, ()):
            if need.size not in (None, size):
                code = "entry-size" if need.of_entry else "wrong-size"
                what = f"blob {digest} has {size} bytes, and {need.by} says {need.size}"
                yield self._problem(code, what, digest)

    def _problem(self, code: str, message: str, digest: Digest) -> Problem:
        return Problem(code, message, str(self._layout.blob(digest)), digest, images=self.users(digest))

    def _entry_problem(self, code: str, entry: Entry, what: str) -> None:
        name = label(entry)
        self._problems.append(Problem(code, f"{name} {what}", str(self._layout.index), entry.digest, images=(name,)))

    def _is_complete(self, digest: Digest) -> bool:
        file = self._blobs.files[digest]
        if file.size > DOCUMENT_LIMIT or self._blobs.fault(digest) is not None or not self._looks_like_json(digest):
            return False
        document = self._document(digest)
        if document is None or (isinstance(document, StoredManifest) and not self._is_image(document)):
            return False
        return self._are_here(self._closure(digest))

    def _are_here(self, sizes: Mapping[Digest, int | None]) -> bool:
        return all(
            one in self._blobs.files and self._blobs.fault(one) is None and size in (None, self._blobs.files[one].size)
            for one, size in sizes.items()
        )

    def _closure(self, digest: Digest) -> dict[Digest, int | None]:
        return {digest: None} | {one: size for one, size, _ in self._below(digest, sparse=False)}

    def _is_image(self, manifest: StoredManifest) -> bool:
        config = self._config(manifest)
        # An attestation has an image's configuration, and layers that are no tar (buildkit, attestation-storage.md).
        has_files = not manifest.layers or any(layer.media_type in media_types.LAYERS for layer in manifest.layers)
        return manifest.is_image and has_files and config is not None and len(config.diff_ids) == len(manifest.layers)

    def _looks_like_json(self, digest: Digest) -> bool:
        try:
            with self._layout.blob(digest).open("rb", buffering=0) as stream:
                return stream.read(1) == b"{"
        except OSError:
            return False


def _same(one: Platform, other: Platform) -> bool:
    first, second = normalize(one), normalize(other)
    return (first.os, first.architecture, first.variant) == (second.os, second.architecture, second.variant)
