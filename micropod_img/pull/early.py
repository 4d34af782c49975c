"""Let crane begin while the registry's answer is still being read strictly.

What is guessed here decides nothing: the strict reading names the image, and if it names another one, or refuses all of
them, the early crane is ended and its files are gone. But it nearly always guesses right, and then the manifest, its
validation and the program's own imports cost no time of their own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from micropod_img import fsutil, media_types
from micropod_img.digest import Digest, sha256_of
from micropod_img.errors import MicropodError
from micropod_img.platforms import is_unknown, select
from micropod_img.store.documents import StoredManifest, read_document

if TYPE_CHECKING:
    from types import TracebackType

    from micropod_img.cancellation import Cancellation
    from micropod_img.pull.crane import Crane
    from micropod_img.pull.crane_errors import Request
    from micropod_img.pull.pull import PullRequest
    from micropod_img.run import Child
    from micropod_img.store.blobs import BlobStore
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store

_MOST_PRELINKED = 4096


class _FetchedByAnotherError(Exception):
    """Another process has the lock of what would be fetched."""


class EarlyFetch:
    """A crane that fetches what a registry's answer seems to mean; ended, unless it was taken, with the block.

    Args:
        store: The store.
        staging: Where crane works.
        crane: The way to the registry.
        wanted: What is to be pulled.
        content: The answer: a manifest or an index.
        request: The reference in words, for errors.
        cancellation: Ends the work.

    Attributes:
        documents: What was asked for to see whether crane may begin, by digest, not yet read strictly.
    """

    def __init__(
        self,
        store: Store,
        staging: Staging,
        crane: Crane,
        wanted: PullRequest,
        content: bytes,
        *,
        request: Request,
        cancellation: Cancellation,
    ) -> None:
        self._store = store
        self._staging = staging
        self._crane = crane
        self._wanted = wanted
        self._content = content
        self._request = request
        self._cancellation = cancellation
        self.documents: dict[Digest, bytes] = {}
        self._digest: Digest | None = None
        self._child: Child | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as held:
            if self._wanted.arrivals is not None:  # its layers are to come in their order
                return self
            digest = _likely_image(self._content, self._wanted, self._store.blobs)
            here = self._store.blobs.sizes()
            if digest is None or digest in here or len(here) > _MOST_PRELINKED:
                return self
            try:
                held.enter_context(self._store.image_lock(digest, self._owner, on_busy=_give_up))
            except _FetchedByAnotherError:
                return self
            if not self._may_begin(digest):
                return self
            # Crane asks for the manifest itself, so whatever it may turn out to need and is here must be there for it.
            with fsutil.disk_errors(self._staging.blobs):
                fsutil.make_directory(self._staging.blobs)
            self._store.blobs.link_into(self._staging.blobs, here)
            self._child = held.enter_context(
                self._crane.start_pull(digest, self._staging.image_layout, keep_open=(self._staging.descriptor,))
            )
            self._digest = digest
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _may_begin(self, digest: Digest) -> bool:
        """Whether the image's manifest is known, and leads crane to no address besides the registry.

        Such an address is asked only after the registry itself was, but the image's publisher has written it.
        """
        manifest = self._content if sha256_of(self._content) == digest else None
        if manifest is None:
            try:
                manifest = self._crane.without_retries().manifest(
                    digest, self._request, cancellation=self._cancellation
                )
            except MicropodError:  # the strict reading will meet it too, and raise it
                return False
            self.documents[digest] = manifest
        return sha256_of(manifest) == digest and not _may_name_addresses(manifest)

    def holds(self, digest: Digest) -> bool:
        """Whether the lock of this image is held here."""
        return self._digest == digest

    def take(self, digest: Digest) -> Child | None:
        """Return the crane that fetches this very image, if there is one; one that fetches another is ended."""
        if self._digest == digest:
            return self._child
        self._held.close()
        self._digest = None
        return None

    @property
    def _owner(self) -> str:
        return f"pull {self._wanted.reference.familiar}"


def _give_up() -> None:
    raise _FetchedByAnotherError


def _may_name_addresses(manifest: bytes) -> bool:
    """Whether crane could find an address besides the registry.

    Go reads ``URLs`` as ``urls``, and JSON has another spelling of each letter.
    """
    return b"urls" in manifest.lower() or b"\\u" in manifest


def _likely_image(content: bytes, wanted: PullRequest, blobs: BlobStore) -> Digest | None:
    """Return the digest of the image that an answer seems to mean, where it is worth to begin at once."""
    try:
        document = read_document(content, "the answer")
    except MicropodError:
        return None
    if isinstance(document, StoredManifest):
        worthwhile = document.is_image and any(not blobs.has(one.digest, one.size) for one in document.layers)
        return sha256_of(content) if worthwhile else None
    if wanted.platform is None:
        return None  # too many manifests to be looked at first
    offers = [one for one in document.manifests if one.platform is not None and not is_unknown(one.platform)]
    best = select(wanted.platform, [one.platform for one in offers if one.platform is not None], strict=wanted.strict)
    if best is None or offers[best].media_type not in media_types.MANIFESTS:
        return None
    return offers[best].digest
