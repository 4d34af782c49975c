"""Ask a registry what a reference means: every document on the way is fetched, hashed and parsed here."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import media_types, run
from micropod_img.digest import Digest, hex_of, sha256_of
from micropod_img.errors import IntegrityError, MicropodError, UnsafeError, UnsupportedError
from micropod_img.oci import (
    CONFIG_LIMIT,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    parse_config,
    parse_document,
)
from micropod_img.platforms import Platform, is_unknown, normalize, select
from micropod_img.pull.plan import config_too_large, is_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.pull.crane import Crane
    from micropod_img.pull.crane_errors import Request
    from micropod_img.reference import Reference
    from micropod_img.store.blobs import BlobStore

_DEEPEST_INDEX = 4
_MOST_DOCUMENTS = 1000
_SIDE_BY_SIDE = 4
_WAKE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index: its exact bytes, their digest, and what they say."""

    digest: Digest
    content: bytes
    parsed: Manifest | Index

    @property
    def media_type(self) -> str:
        """Its media type; OCI documents need not say theirs."""
        default = media_types.OCI_INDEX if isinstance(self.parsed, Index) else media_types.OCI_MANIFEST
        return self.parsed.media_type or default


@dataclass(frozen=True, slots=True)
class Choice:
    """The image of an index that fits a platform, and the indexes that lead to it, but for the index itself."""

    descriptor: Descriptor
    platform: Platform
    path: tuple[Document, ...] = ()


class Resolver:
    """Asks one registry about one reference.

    Args:
        crane: The way to the registry.
        blobs: The store's blobs; a document that is there by digest is not asked for.
        reference: The reference.
        request: The reference in words, for errors.
        cancellation: Ends the requests.
    """

    def __init__(
        self, crane: Crane, blobs: BlobStore, reference: Reference, request: Request, cancellation: Cancellation
    ) -> None:
        self._crane = crane
        self._blobs = blobs
        self._reference = reference
        self._request = request
        self._cancellation = cancellation
        self._read_to_choose = 0
        self._known: dict[Digest, bytes] = {}

    def know(self, documents: Mapping[Digest, bytes]) -> None:
        """Take documents that the registry was asked for already; they are checked like all others."""
        self._known.update(documents)

    def top(self, content: bytes) -> Document:
        """Read what the registry answered for the reference: a manifest, or an index.

        Args:
            content: The answer.

        Raises:
            IntegrityError: It is not what the reference's digest says.
            MicropodError: As `parse_document` says.
        """
        document = Document(sha256_of(content), content, self._parsed(content, self._request.ref))
        expected = self._reference.digest
        if expected is not None and document.digest != expected:
            raise self._mismatch(f"{document.digest} for {expected}")
        return document

    def child(self, descriptor: Descriptor) -> Document:
        """Return a document that another one describes.

        Raises:
            IntegrityError: Its size or digest is not what its descriptor says.
        """
        name = f"{self._request.ref} ({descriptor.digest})"
        content = self._known.get(descriptor.digest) or self._stored(descriptor)
        if content is None:
            content = self._crane.manifest(descriptor.digest, self._request, cancellation=self._cancellation)
        if len(content) != descriptor.size:
            raise self._mismatch(f"{len(content)} bytes for {descriptor.digest}, which should have {descriptor.size}")
        if sha256_of(content) != descriptor.digest:
            raise self._mismatch(f"{sha256_of(content)} for {descriptor.digest}")
        document = Document(descriptor.digest, content, self._parsed(content, name))
        self._check_type(document, descriptor)
        return document

    def choose(self, index: Document, wanted: Platform, *, strict: bool) -> Choice:
        """Return the image of an index for a platform.

        Args:
            index: The index.
            wanted: The platform.
            strict: Whether only an image for exactly this platform will do.

        Raises:
            UnsupportedError: The index has none for it; the message lists those that it has.
        """
        offers = [offer for offer in self._offers(index, ()) if not is_unknown(offer.platform)]
        best = select(wanted, [offer.platform for offer in offers], strict=strict)
        if best is None:
            raise no_such_platform(self._request, wanted, [offer.platform for offer in offers])
        return offers[best]

    def config(self, descriptor: Descriptor, *, at: Path | None = None) -> bytes:
        """Return the bytes of a configuration.

        Args:
            descriptor: What the manifest says of it.
            at: A directory of blobs in which crane may have put it.

        Raises:
            UnsafeError: It is larger than any real one.
            IntegrityError: Its size or digest is not what the manifest says.
        """
        content = self._stored(descriptor) or _fitting(descriptor, at)
        if content is not None:
            return content
        try:
            content = self._crane.blob(
                descriptor.digest, self._request, limit=CONFIG_LIMIT, cancellation=self._cancellation
            )
        except run.OutputLimitError as error:
            raise config_too_large(self._request) from error
        if not _fits(descriptor, content):
            raise self._mismatch(f"other bytes for the configuration {descriptor.digest}")
        return content

    def image_config(self, manifest: Manifest, content: bytes) -> ImageConfig:
        """Read a configuration and check that it fits its manifest.

        Raises:
            IntegrityError: It has more or fewer diff IDs than the manifest has layers, or is malformed.
        """
        config = parse_config(content, name=self._request.ref)
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise IntegrityError(
                f"{self._request.ref} has {len(manifest.layers)} layers and {len(config.rootfs.diff_ids)} diff IDs",
                code="diff-id-count",
                hint="the image is broken; ask its publisher to push it again",
                stage="verify",
                endpoint=self._request.endpoint,
            )
        return config

    def descendants(self, index: Document) -> list[Document]:
        """Return every manifest and index that an index leads to, the index itself first.

        Raises:
            UnsafeError: There are more of them, or deeper ones, than any real index has.
        """
        found = {index.digest: index}
        level = [index]
        for _ in range(_DEEPEST_INDEX + 1):
            wanted = {
                descriptor.digest: descriptor
                for document in level
                if isinstance(document.parsed, Index)
                for descriptor in document.parsed.manifests
                if descriptor.digest not in found and is_document(descriptor)
            }
            if not wanted:
                return list(found.values())
            if len(found) + len(wanted) > _MOST_DOCUMENTS:
                break
            level = self._children(wanted.values())
            found.update((document.digest, document) for document in level)
        raise self._too_deep()

    def _children(self, descriptors: Iterable[Descriptor]) -> list[Document]:
        """Return several documents, read side by side."""
        executor = ThreadPoolExecutor(_SIDE_BY_SIDE)
        try:
            reads = [executor.submit(self.child, descriptor) for descriptor in descriptors]
            # With a timeout: the kernel may give a signal to any thread, and Python sees it when this one wakes.
            while (reading := wait(reads, _WAKE_SECONDS, FIRST_EXCEPTION)).not_done:
                if any(read.exception() for read in reading.done):
                    break
            return [read.result() for read in reads if read.done()]
        finally:
            # Those under way are not waited for: they end by themselves, or when all of it is called off.
            executor.shutdown(wait=False, cancel_futures=True)

    def _offers(self, index: Document, path: tuple[Document, ...]) -> Iterator[Choice]:
        if len(path) >= _DEEPEST_INDEX:
            raise self._too_deep()
        for descriptor in index.parsed.manifests if isinstance(index.parsed, Index) else ():
            if descriptor.media_type in media_types.INDEXES:
                inner = self._read_child(descriptor)
                yield from self._offers(inner, (*path, inner))
            elif is_document(descriptor):
                yield Choice(descriptor, self._platform_of(descriptor), path)

    def _read_child(self, descriptor: Descriptor) -> Document:
        self._read_to_choose += 1
        if self._read_to_choose > _MOST_DOCUMENTS:
            raise self._too_deep()
        return self.child(descriptor)

    def _platform_of(self, descriptor: Descriptor) -> Platform:
        if descriptor.platform is not None:
            return descriptor.platform.value()
        manifest = self._read_child(descriptor).parsed
        if not isinstance(manifest, Manifest) or not manifest.is_image:
            return Platform(os="unknown", architecture="unknown")
        return self.image_config(manifest, self.config(manifest.config)).platform

    def _stored(self, descriptor: Descriptor) -> bytes | None:
        if not descriptor.digest.startswith("sha256:") or not self._blobs.has(descriptor.digest, descriptor.size):
            return None
        try:
            return self._blobs.read(descriptor.digest, size=descriptor.size)
        except IntegrityError:  # what is corrupt here is fetched anew
            return None

    def _parsed(self, content: bytes, name: str) -> Manifest | Index:
        try:
            return parse_document(content, name=name)
        except MicropodError as error:
            error.stage, error.endpoint = self._request.stage, self._request.endpoint
            raise

    def _check_type(self, document: Document, descriptor: Descriptor) -> None:
        said = descriptor.media_type
        own = document.parsed.media_type
        # What says nothing itself is told by its members.
        as_said = own == said if own else (said in media_types.INDEXES) == isinstance(document.parsed, Index)
        if said in media_types.INDEXES | media_types.MANIFESTS and not as_said:
            raise UnsafeError(
                f"{self._request.ref}: {descriptor.digest} is called {said} and is {document.media_type}",
                code="ambiguous-manifest",
                hint="do not use this image; see CVE-2021-41190",
                stage="resolve",
                endpoint=self._request.endpoint,
            )

    def _mismatch(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"{self._request.endpoint} sent {what} ({self._request.ref})",
            code="digest-mismatch",
            hint="the registry, or a proxy on the way, is broken or hostile; nothing of it was kept",
            stage="verify",
            endpoint=self._request.endpoint,
        )

    def _too_deep(self) -> UnsafeError:
        return UnsafeError(
            f"{self._request.ref} is an index of more, or more deeply nested, manifests than any real image has",
            code="index-too-large",
            stage="resolve",
            endpoint=self._request.endpoint,
        )


def no_such_platform(request: Request, wanted: Platform, available: Sequence[Platform]) -> UnsupportedError:
    """Return the error for an image that is not for a platform, with the list of what it is for."""
    names = sorted({str(normalize(platform)) for platform in available})
    return UnsupportedError(
        f"{request.ref} is not for {wanted}; it is for {', '.join(names) or 'no platform at all'}",
        code="no-such-platform",
        hint=f"choose one of them, for instance --platform {names[0]}" if names else None,
        stage="resolve",
        endpoint=request.endpoint,
    )


def _fits(descriptor: Descriptor, content: bytes) -> bool:
    return len(content) == descriptor.size and sha256_of(content) == descriptor.digest


def _fitting(descriptor: Descriptor, directory: Path | None) -> bytes | None:
    """Return a file of crane's if it is what it should be: a torn one that it found there it does not replace."""
    if directory is None or descriptor.size > CONFIG_LIMIT:
        return None
    try:
        content = (directory / hex_of(descriptor.digest)).read_bytes()
    except FileNotFoundError:
        return None
    return content if _fits(descriptor, content) else None
