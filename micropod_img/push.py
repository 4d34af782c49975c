"""Push an image of the store: crane gets a private layout that holds it and nothing else, and never the store's own."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from micropod_img import fsutil, media_types, progress
from micropod_img.digest import Digest
from micropod_img.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from micropod_img.pull.ask import ask
from micropod_img.pull.crane_errors import Request
from micropod_img.pull.retry import Retries
from micropod_img.pull.watch import TICK_SECONDS, Watchdog
from micropod_img.reference import Reference
from micropod_img.reports import PushReport
from micropod_img.store.documents import StoredIndex, read_document
from micropod_img.store.images import ImageStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.platforms import Platform
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.crane import Crane, TimeLimits
    from micropod_img.pull.hosts import Hosts
    from micropod_img.run import Child
    from micropod_img.store.documents import StoredDescriptor
    from micropod_img.store.images import Record
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store

# Crane's words for a blob, and for a manifest.
_DONE: Final = re.compile(
    r"^\S+ \S+ (?:(?:pushed|existing|mounted) blob: |existing manifest: (?:\S+@)?|\S+: digest: )(sha256:[0-9a-f]{64})",
    re.MULTILINE,
)
_PUSHED: Final = re.compile(r"^\S+ \S+ (?:pushed blob|\S+: digest): (sha256:[0-9a-f]{64})", re.MULTILINE)
_STAGE: Final = "push"


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What is to be pushed, and where.

    Attributes:
        source: A reference, a digest, or a unique prefix of one.
        destination: Where to; None: to where the source's name says.
        platform: The platform to choose where several are here.
        strict: Whether only exactly this platform will do, since the user named it; an index is then not pushed.
        all_platforms: Whether the whole index is meant, also where its images are listed one by one.
    """

    source: str
    destination: Reference | None
    platform: Platform
    strict: bool = False
    all_platforms: bool = False


@dataclass(frozen=True, slots=True)
class _Root:
    """The document that is pushed, and everything that it needs."""

    digest: Digest
    media_type: str
    size: int
    needed: dict[Digest, int]


class Push:
    """Pushes for one call of the API.

    Args:
        store: The store.
        program: Path of the verified crane.
        hosts: How registries are reached.
        sink: Is told of progress.
        cancellation: Ends the work.
    """

    def __init__(
        self, store: Store, program: Path, hosts: Hosts, *, sink: ProgressSink, cancellation: Cancellation
    ) -> None:
        self._store = store
        self._program = program
        self._hosts = hosts
        self._sink = sink
        self._cancellation = cancellation
        self._images = ImageStore(store)

    def push(self, wanted: PushRequest) -> PushReport:
        """Push an image, or a whole index.

        Raises:
            NotFoundError: It is not here, or not all of an index is.
            UsageError: It is not said where to.
            MicropodError: As the table of `micropod_img.pull.crane_errors` says.
        """
        records = self._images.lookup(wanted.source)
        destination = _destination(wanted, records)
        root = self._root(records, wanted)
        if destination.digest not in (None, root.digest):
            raise UsageError(
                f"{destination} has a digest that is not that of what would be pushed, {root.digest}",
                hint="give a name and a tag",
            )
        endpoint = self._hosts.direct_endpoint(destination)
        limits = self._hosts.limits()
        request = Request(str(destination), endpoint.host, _STAGE)
        retries = Retries(str(destination), limits, others_left=False, sink=self._sink, cancellation=self._cancellation)
        self._store.prepare()
        with self._store.stage(_STAGE) as staging:
            self._lay_out(staging, root)
            self._sink(progress.PushStarted(str(destination), endpoint.host, root.digest, _sum(root.needed)))
            sent: set[Digest] = set()
            there: set[Digest] = set()

            def send(crane: Crane, request: Request) -> None:
                def attempt(number: int) -> None:
                    keep_open = (staging.descriptor,)
                    with crane.start_push(staging.image_layout, keep_open=keep_open, verbose=number > 1) as child:
                        try:
                            self._watch(child, crane, request, root, limits)
                        finally:
                            sent.update(_distinct(_PUSHED, child.stderr_so_far()))
                            there.update(_distinct(_DONE, child.stderr_so_far()))

                retries.run(attempt, reached=lambda: bool(there))

            ask(
                endpoint,
                self._program,
                staging.path,
                self._hosts.settings,
                request=request,
                question=send,
                retries=retries,
            )
        pushed = sum(root.needed.get(digest, 0) for digest in sent)
        return PushReport(str(destination), root.digest, root.media_type, pushed, max(_sum(root.needed) - pushed, 0))

    def _root(self, records: Sequence[Record], wanted: PushRequest) -> _Root:
        entry = records[0].entry
        top = entry.index_digest
        if not wanted.strict and top is not None and (entry.is_index or wanted.all_platforms):
            return self._whole_index(top, wanted)
        if wanted.all_platforms:
            raise NotFoundError(
                f"{wanted.source} is here for one platform, and came from no index",
                code="not-an-index",
                hint="leave out --all-platforms",
                stage=_STAGE,
            )
        record = self._images.choose(records, wanted.platform, strict=wanted.strict)
        if record is None and not wanted.strict and len({one.digest for one in records}) == 1:
            record = records[0]
        if record is None:
            here = ", ".join(sorted({str(self._images.platform_of(one)) for one in records}))
            raise NotFoundError(
                f"{wanted.source} is here for {here}, and not for {wanted.platform}",
                code="platform-not-here",
                hint="choose one with --platform",
                stage=_STAGE,
            )
        image = self._images.image(record)
        needed = {image.config_digest: 0, **{layer.digest: layer.size for layer in image.layer_details}}
        needed[image.config_digest] = image.size - record.size - _sum(needed)
        return _Root(record.digest, image.media_type, record.size, {record.digest: record.size, **needed})

    def _whole_index(self, digest: Digest, wanted: PushRequest) -> _Root:
        needed: dict[Digest, int] = {}
        missing: list[str] = []
        content = self._store.blobs.read(digest)
        document = read_document(content, f"index {digest}")
        needed[digest] = len(content)
        self._collect(document.manifests if isinstance(document, StoredIndex) else (), needed, missing)
        if missing:
            raise NotFoundError(
                f"not all of the index {wanted.source} is here: {', '.join(missing)}",
                code="index-not-whole",
                hint=f"micropod-img pull --all-platforms {wanted.source}, or push one image of it with --platform",
                stage=_STAGE,
            )
        return _Root(digest, _media_type(content), len(content), needed)

    def _collect(self, children: Sequence[StoredDescriptor], needed: dict[Digest, int], missing: list[str]) -> None:
        for child in children:
            if child.digest in needed:
                continue
            name = str(child.platform) if child.platform is not None else child.digest
            if not self._store.blobs.has(child.digest, child.size):
                missing.append(f"{name} is missing")
                continue
            needed[child.digest] = child.size
            document = read_document(self._store.blobs.read(child.digest, size=child.size), f"manifest {child.digest}")
            if isinstance(document, StoredIndex):
                self._collect(document.manifests, needed, missing)
                continue
            for blob in (document.config, *document.layers):
                needed[blob.digest] = blob.size
                if not self._store.blobs.has(blob.digest, blob.size):
                    missing.append(f"{blob.digest} of {name} is missing")

    def _lay_out(self, staging: Staging, root: _Root) -> None:
        with fsutil.disk_errors(staging.blobs):
            fsutil.make_directory(staging.blobs)
        self._store.blobs.link_into(staging.blobs, root.needed)
        descriptor = {"mediaType": root.media_type, "digest": root.digest, "size": root.size}
        index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [descriptor]}
        with fsutil.disk_errors(staging.image_layout):
            (staging.image_layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', "ascii")
            (staging.image_layout / "index.json").write_text(json.dumps(index), "ascii")
        # A blob that was removed between the look and the link; nobody can take the links away.
        if any(not (staging.blobs / digest.removeprefix("sha256:")).exists() for digest in root.needed):
            raise IntegrityError("the image was removed meanwhile", code="missing-blob", stage=_STAGE, retryable=True)

    def _watch(self, child: Child, crane: Crane, request: Request, root: _Root, limits: TimeLimits) -> None:
        """Watch crane to its end: what it writes to the network is its sign of life."""
        total = _sum(root.needed)
        watchdog = Watchdog(request, limits, self._cancellation, _stalled)
        last_written, told = 0, -1
        while not child.wait(TICK_SECONDS):
            written = child.written_bytes()
            watchdog.check(grown=written != last_written)
            last_written = written
            done = self._done(child.stderr_so_far(), root, written)
            if done != told:
                told = done
                self._sink(progress.PushProgress(request.ref, done, total))
        completed = child.completed()
        if completed.status != 0:
            raise crane.failure(completed, request)
        self._sink(progress.PushProgress(request.ref, total, total))

    @staticmethod
    def _done(log: str, root: _Root, written: int) -> int:
        """Return how many bytes are there: those that were before, and what crane has sent, which it logs late."""
        there = sum(root.needed.get(digest, 0) for digest in _distinct(_DONE, log) - _distinct(_PUSHED, log))
        sent = sum(root.needed.get(digest, 0) for digest in _distinct(_PUSHED, log))
        # It writes a little more to the network than the blobs' bytes; the end is told when it has come.
        return min(there + max(sent, written), max(_sum(root.needed) - 1, 0))


def _destination(wanted: PushRequest, records: Sequence[Record]) -> Reference:
    destination = wanted.destination
    if destination is None:
        named = records[0].entry.reference
        if not named:
            raise UsageError(f"{wanted.source} has no name here that says where to push it", hint="give a destination")
        destination = Reference.parse(named)
    # A name with a tag is pushed under its tag; the digest follows from the content.
    return destination.without_digest() if destination.tag is not None else destination


def _media_type(index: bytes) -> str:
    document: object = json.loads(index)
    said = document.get("mediaType") if isinstance(document, dict) else None
    return said if isinstance(said, str) else media_types.OCI_INDEX


def _distinct(pattern: re.Pattern[str], log: str) -> set[Digest]:
    return {Digest(found) for found in pattern.findall(log)}


def _sum(needed: dict[Digest, int]) -> int:
    return sum(needed.values())


def _stalled(request: Request, seconds: float) -> UnavailableError:
    return UnavailableError(
        f"{request.endpoint} took nothing for {seconds:g} s ({request.ref})",
        code="stalled",
        hint="try again: blobs that arrived whole are not sent twice",
        stage=_STAGE,
        endpoint=request.endpoint,
        retryable=True,
    )
