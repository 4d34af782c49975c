"""Decide, for one call of the API, which references the network is asked about: local first, as the policy says.

What goes to the network is imported by the first reference that needs it: a pull that finds its image here does not.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from micropod_img import progress as events
from micropod_img.errors import (
    AuthError,
    IntegrityError,
    MicropodError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    UsageError,
)
from micropod_img.models import Image, PullFailure
from micropod_img.pull.options import POLICIES, PullOptions
from micropod_img.reference import Reference
from micropod_img.store.blobs import missing_blob
from micropod_img.store.closure import closure
from micropod_img.store.images import ImageStore, Record, not_here
from micropod_img.store.index import renamed, with_entries
from micropod_img.store.waits import observer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from micropod_img.arrivals import Arrivals
    from micropod_img.cancellation import Cancellation
    from micropod_img.config import Config
    from micropod_img.digest import Digest
    from micropod_img.platforms import Platform
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.hosts import Hosts
    from micropod_img.pull.pull import PullRequest
    from micropod_img.reports import PullPlan
    from micropod_img.store.index import Entry
    from micropod_img.store.store import Store
    from micropod_img.tools import PendingTool

_OF_THE_INDEX = frozenset({"corrupt-index", "missing-index"})


@dataclass(frozen=True, slots=True)
class _Here:
    """An image that is here, read back, and what lists it."""

    record: Record
    image: Image


class PullJob:
    """Pulls references for one call of the API: what they share is found once.

    Args:
        store: The store.
        config: The defaults of what the options leave open.
        platform: The platform that is wanted.
        options: How references are pulled.
        sink: Is told of progress.
        cancellation: Ends the work.
        arrivals: Is told of each layer that is here; only where one image is pulled for one platform.
    """

    def __init__(
        self,
        *,
        store: Store,
        config: Config,
        platform: Platform,
        options: PullOptions,
        sink: ProgressSink,
        cancellation: Cancellation,
        arrivals: Arrivals | None = None,
    ) -> None:
        if options.policy not in POLICIES:
            raise UsageError(f"there is no pull policy {options.policy!r}", hint=f"choose of {', '.join(POLICIES)}")
        if options.all_platforms and options.platform is not None:
            raise UsageError("all platforms and one platform were asked for", hint="leave out one of the two options")
        self._store = store
        self._config = config
        self._images = ImageStore(store)
        self._options = options
        self._platform = platform
        # As ctr and nerdctl do: a platform that was named is meant exactly, the host's may be served by a lesser one.
        self._strict = options.platform is not None
        self._sink = sink
        self._cancellation = cancellation
        self._arrivals = arrivals
        self._crane: PendingTool | None = None
        self._hosts: Hosts | None = None
        self._loading = threading.Lock()

    def outcome(self, ref: str | Reference) -> tuple[Image, int, int] | PullFailure:
        """Pull one reference; return what it became, or why it did not."""
        try:
            return self.pull(ref)
        except MicropodError as error:
            self._sink(events.Failed(str(ref), error.message))
            return PullFailure(str(ref), error)

    def pull(self, ref: str | Reference) -> tuple[Image, int, int]:
        """Pull one reference.

        Returns:
            The image, the bytes that were downloaded, and the bytes that were here.
        """
        started = time.monotonic()
        references = self._meant(ref)
        for reference in references[:-1]:
            try:
                return self._pull(reference, started)
            except (NotFoundError, AuthError) as error:
                if self._options.policy != "never":
                    self._sink(events.Notice(str(reference), f"{error.message}; the next registry is searched"))
        return self._pull(references[-1], started)

    def plan(self, ref: str | Reference) -> PullPlan:
        """Say what `pull` would do, and do nothing of it.

        Raises:
            NotFoundError: The image is not here, and the policy is never to pull.
            MicropodError: As of the pull itself.
        """
        from micropod_img.pull.planning import plan_nothing, plan_pull  # noqa: PLC0415 - as in `_fetched`

        started = time.monotonic()
        references = self._meant(ref)
        here = None if self._options.policy == "always" else self._here(references[0])
        if here is not None and (self._options.policy != "newer" or self._is_current(references[0], here, started)):
            return plan_nothing(self._store, here.image, self._request(references[0], started))
        if self._options.policy == "never":
            raise self._not_here(references[-1])
        candidates = [self._request(reference, started) for reference in references]
        return plan_pull(self._store, self._program(), candidates, sink=self._sink, cancellation=self._cancellation)

    def restore(self, entry: Entry) -> int:
        """Fetch what is missing of a listed image again, by its digest; its entry stays as it is.

        Args:
            entry: The entry of an image, or of a whole index.

        Returns:
            The bytes that were downloaded.

        Raises:
            NotFoundError: The registry does not have it any more, or nobody knows which registry had it.
            MicropodError: As of a pull.
        """
        if not entry.reference:
            raise NotFoundError(
                f"{entry.digest} has no reference: nobody knows where it came from", code="no-reference"
            )
        top = entry.index_digest if entry.platform is not None else None
        if top is not None and top != entry.digest:
            with contextlib.suppress(NotFoundError):  # the index may be gone there, and the image may not
                return self._restore(entry, top, entry.platform)
        return self._restore(entry, entry.digest, None)

    def _restore(self, entry: Entry, digest: Digest, platform: Platform | None) -> int:
        self._start_tool_check()
        from micropod_img.pull.pull import pull  # noqa: PLC0415 - only calls that go to the network pay for it

        request = replace(
            self._request(Reference.parse(entry.reference).with_digest(digest), time.monotonic()),
            platform=platform,
            strict=True,
            read_back=lambda listed: self._images.image(next(self._images.records([listed]))),
            restores=entry,
        )
        return pull(
            self._store, self._program(), request, sink=self._sink, cancellation=self._cancellation
        ).downloaded_bytes

    def _meant(self, ref: str | Reference) -> Sequence[Reference]:
        """Return what a reference may mean; of several images those that are here come first."""
        if isinstance(ref, Reference):
            return (ref,)
        if self._config.short_names == "docker.io":
            return (Reference.parse(ref),)
        candidates = self._network().candidates(ref)
        if len(candidates) > 1 and self._options.auth is not None:
            raise UsageError(
                f"a credential was given, and {ref} may be an image of several registries",
                code="short-name",
                hint=f"write in full whose it is: {' or '.join(map(str, candidates))}",
            )
        return sorted(candidates, key=lambda one: self._options.policy == "always" or self._here(one) is None)

    def _pull(self, reference: Reference, started: float) -> tuple[Image, int, int]:
        here = None if self._options.policy == "always" else self._here(reference)
        if here is not None and (self._options.policy != "newer" or self._is_current(reference, here, started)):
            found = self._found(reference, here)
            if found is not None:
                return found
        if self._options.policy == "never":
            raise self._not_here(reference)
        return self._fetched(reference, started)

    def _not_here(self, reference: Reference) -> NotFoundError:
        return NotFoundError(
            f"{reference.familiar} is not here for {self._platform}, and the policy is never to pull",
            code="image-not-found",
            hint=f"micropod-img pull {reference.familiar}",
        )

    def _here(self, reference: Reference) -> _Here | None:
        """Return the image if it is here, whole, and for the wanted platform."""
        try:
            return self._images.consistently(lambda images: self._read(images, reference))
        except IntegrityError as error:
            if self._options.policy == "never" or error.code in _OF_THE_INDEX:
                raise
            self._sink(events.Notice(str(reference), f"{error.message}; it is fetched again"))
            return None

    def _read(self, images: ImageStore, reference: Reference) -> _Here | None:
        records = images.find(reference)
        if self._options.all_platforms:
            records = [record for record in records if _is_all_there_is(record)]
        record = self._choose(records) or self._damaged(records)
        if record is None:
            return None
        image = images.image(record)
        if self._options.all_platforms:
            self._require_whole(record)
        return _Here(record, image)

    def _choose(self, records: Sequence[Record]) -> Record | None:
        chosen = self._images.choose(records, self._platform, strict=self._strict)
        if chosen is None and self._options.all_platforms and records:
            return records[0]
        return chosen

    def _damaged(self, records: Sequence[Record]) -> Record | None:
        """Return a record of a whole index that cannot be read: reading it says why."""
        return next(
            (record for record in records if record.digest == record.entry.digest and record.entry.is_index), None
        )

    def _require_whole(self, record: Record) -> None:
        for digest, size in closure(self._store.blobs, record.entry).items():
            if not self._store.blobs.has(digest, size):
                raise missing_blob(digest)

    def _found(self, reference: Reference, here: _Here) -> tuple[Image, int, int] | None:
        found = here.image if here.record.entry.reference == str(reference) else self._listed_too(reference)
        if found is None:
            return None
        image = self._images.used(found)
        self._sink(
            events.Finished(str(reference), image.digest, fetched=False, downloaded_bytes=0, reused_bytes=image.size)
        )
        return image, 0, image.size

    def _listed_too(self, reference: Reference) -> Image | None:
        """List an image that was found by its digest under the reference that asked for it, if it still is here."""
        store = self._store.telling(observer(self._sink, str(reference)))
        store.prepare()
        with store.index_transaction(f"pull {reference.familiar}", cancellation=self._cancellation) as transaction:
            # Looked up anew: an rmi may have freed its blobs since it was found.
            record = self._choose(self._images.find(reference))
            if record is None:
                return None
            transaction.replace(with_entries(transaction.index, [renamed(record.entry, reference)]))
            return self._images.image(self._choose(self._images.find(reference)) or record)

    def _is_current(self, reference: Reference, here: _Here, started: float) -> bool:
        if reference.digest is not None:
            return True
        from micropod_img.pull.pull import current_digest  # noqa: PLC0415 - only calls that go to the network pay for it

        self._store.prepare()
        try:
            digest = current_digest(
                self._store,
                self._program(),
                self._request(reference, started),
                sink=self._sink,
                cancellation=self._cancellation,
            )
        except (UnavailableError, RateLimitedError) as error:
            self._sink(events.Notice(str(reference), f"{error.message}; what is here is used"))
            return True
        return digest in (here.record.digest, here.record.entry.index_digest)

    def _fetched(self, reference: Reference, started: float) -> tuple[Image, int, int]:
        self._start_tool_check()
        from micropod_img.pull.pull import pull  # noqa: PLC0415 - only calls that go to the network pay for it

        store = self._store.telling(observer(self._sink, str(reference)))
        store.prepare()
        store.read_index()  # one that is torn could not list what is fetched
        pulled = pull(
            store,
            self._program(),
            self._request(reference, started),
            sink=self._sink,
            cancellation=self._cancellation,
        )
        image = self._images.used(pulled.image)
        self._sink(
            events.Finished(
                str(reference),
                image.digest,
                fetched=True,
                downloaded_bytes=pulled.downloaded_bytes,
                reused_bytes=pulled.reused_bytes,
            )
        )
        return image, pulled.downloaded_bytes, pulled.reused_bytes

    def _read_back(self, entry: Entry) -> Image:
        record = self._choose(list(self._images.records([entry])))
        if record is None:
            raise not_here(entry.reference)
        return self._images.image(record)

    def _start_tool_check(self) -> None:
        if self._crane is None:
            from micropod_img.tools import PendingTool  # noqa: PLC0415 - only calls that go to the network pay for it

            self._crane = PendingTool("crane", directory=self._config.tools_dir)

    def _program(self) -> Path:
        self._start_tool_check()
        assert self._crane is not None  # noqa: S101 - for the type checker
        return self._crane.result().path

    def _request(self, reference: Reference, started: float) -> PullRequest:
        from micropod_img.pull.pull import PullRequest  # noqa: PLC0415 - only calls that go to the network pay for it

        hosts = self._network()
        return PullRequest(
            reference,
            None if self._options.all_platforms else self._platform,
            strict=self._strict,
            endpoints=hosts.endpoints(reference),
            settings=hosts.settings,
            limits=hosts.limits(started),
            read_back=self._read_back,
            arrivals=self._arrivals,
        )

    def _network(self) -> Hosts:
        with self._loading:
            if self._hosts is None:
                from micropod_img.pull.hosts import HostOptions, Hosts  # noqa: PLC0415 - as above

                given = self._options
                options = HostOptions(
                    insecure=given.insecure,
                    timeout=given.timeout,
                    stall_timeout=given.stall_timeout,
                    auth=given.auth,
                    ca_file=given.ca_file,
                    registries_conf=given.registries_conf,
                )
                self._hosts = Hosts(self._config, options, os.environ, self._sink)
            return self._hosts


def _is_all_there_is(record: Record) -> bool:
    """Whether a record is of a whole index, or was pulled from where there was no index."""
    return record.entry.is_index or (bool(record.entry.pulled_at) and record.entry.index_digest is None)
