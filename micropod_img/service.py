"""`ImageService`: everything that micropod-img does, for its own commands and for runtimes that call it as a library.

It never prints, never exits and never reads the terminal. Importing this module is cheap; what a pull over the network
needs is imported by the first call that goes there.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from micropod_img import progress as events
from micropod_img.cancellation import Cancellation
from micropod_img.config import load_config, store_root
from micropod_img.errors import (
    IntegrityError,
    MicropodError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from micropod_img.models import Image, PullFailure, PullReport, ToolVersion
from micropod_img.platforms import Platform, host_platform
from micropod_img.reference import Reference
from micropod_img.store.images import ImageStore, Record, not_here
from micropod_img.store.index import renamed, with_entries
from micropod_img.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from micropod_img.config import Config
    from micropod_img.models import DeleteResult, StoreUsage
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.pull import PullRequest
    from micropod_img.tools import PendingTool, Tool

Policy: TypeAlias = Literal["missing", "newer", "always", "never"]
POLICIES: tuple[Policy, ...] = ("missing", "newer", "always", "never")


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How references are pulled; the defaults are those of the configuration.

    Attributes:
        platform: ``os/arch[/variant]``; the host's if None.
        all_platforms: Whether the whole index is pulled.
        policy: When the network is asked: ``missing`` (if the image is not here), ``newer`` (for its digest, and for
            more if that moved), ``always``, ``never``.
        insecure: Whether plain HTTP, and HTTPS without verification, are allowed.
        timeout: Seconds for each reference.
        stall_timeout: Seconds without an answer or a new byte.
    """

    platform: str | Platform | None = None
    all_platforms: bool = False
    policy: Policy = "missing"
    insecure: bool = False
    timeout: float | None = None
    stall_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class BrokenImage:
    """An image that is listed and cannot be read back, and why."""

    ref: str
    error: MicropodError


class ImageService:
    """The images of one store.

    Args:
        root: The state directory; as CONTRACT.md, "Store on disk", if None.
        config: A configuration file; the usual ones if None.

    Raises:
        UsageError: The configuration is wrong.
        UnsupportedError: The store has a newer format.
        DiskError: The store is somebody else's, or cannot be read.
    """

    def __init__(self, root: str | Path | None = None, config: str | Path | None = None) -> None:
        self.config: Config = load_config(None if config is None else Path(config), os.environ)
        self.root: Path = store_root(root, os.environ, self.config, os.geteuid())
        self._store = Store(self.root)
        self._images = ImageStore(self._store)

    def pull_image(
        self,
        ref: str | Reference,
        *,
        platform: str | Platform | None = None,
        all_platforms: bool = False,
        policy: Policy = "missing",
        progress: ProgressSink | None = None,
        insecure: bool = False,
        timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> Image:
        """Return an image, pulled first if the policy says so.

        Args:
            ref: A reference.
            platform: ``os/arch[/variant]``; the host's if None.
            all_platforms: Whether the whole index is pulled.
            policy: As `PullOptions` says.
            progress: Is told of progress.
            insecure: Whether plain HTTP, and HTTPS without verification, are allowed.
            timeout: Seconds for all of it; the configuration's if None.
            stall_timeout: Seconds without an answer or a new byte; the configuration's if None.

        Returns:
            The image; of a whole index the host's, or the first.

        Raises:
            MicropodError: Every kind that CONTRACT.md, "Exit status", lists.
        """
        options = PullOptions(platform, all_platforms, policy, insecure, timeout, stall_timeout)
        job = _PullJob(self, options, progress or events.silent, Cancellation())
        image, _, _ = job.pull(ref)
        return image

    def pull_images(
        self,
        refs: Sequence[str | Reference],
        options: PullOptions | None = None,
        *,
        jobs: int | None = None,
        progress: ProgressSink | None = None,
    ) -> PullReport:
        """Pull several images side by side; that one fails does not stop the others.

        Args:
            refs: References.
            options: How they are pulled.
            jobs: How many at a time; the configuration's if None.
            progress: Is told of progress; never called by two threads at a time.

        Returns:
            What worked and what did not.
        """
        cancellation = Cancellation()
        job = _PullJob(self, options or PullOptions(), events.serialized(progress or events.silent), cancellation)
        if len(refs) == 1:
            results = [job.outcome(refs[0])]
        else:
            executor = ThreadPoolExecutor(max_workers=min(jobs or self.config.jobs, len(refs)))
            try:
                results = list(executor.map(job.outcome, refs))
            finally:
                # An interrupt reaches this thread; the others end their children when they see it.
                cancellation.cancel()
                executor.shutdown(cancel_futures=True)
        return PullReport(
            images=tuple(result[0] for result in results if not isinstance(result, PullFailure)),
            failures=tuple(result for result in results if isinstance(result, PullFailure)),
            downloaded_bytes=sum(result[1] for result in results if not isinstance(result, PullFailure)),
            reused_bytes=sum(result[2] for result in results if not isinstance(result, PullFailure)),
        )

    def get_image(self, ref: str | Reference, *, platform: str | Platform | None = None) -> Image:
        """Return an image of the store.

        Args:
            ref: A reference, a digest, or a unique prefix of one.
            platform: ``os/arch[/variant]``; if None the host's, or the one platform that is here.

        Raises:
            NotFoundError: It is not here, or not for this platform.
            IntegrityError: It is here, and damaged.
        """
        records = self._images.lookup(str(ref))
        record = self._images.choose(records, self.wanted_platform(platform), strict=platform is not None)
        if record is None and platform is None and len({one.digest for one in records}) == 1:
            record = records[0]
        if record is None:
            here = ", ".join(sorted({str(self._images.platform_of(one)) for one in records}))
            raise NotFoundError(
                f"{ref} is here for {here}, and not for {self.wanted_platform(platform)}",
                code="platform-not-here",
                hint=f"choose one with --platform, or pull it: micropod-img pull {ref}",
            )
        return self._images.image(record)

    def list_images(self, on_broken: Callable[[BrokenImage], None] | None = None) -> list[Image]:
        """Return all images, one for each reference and platform.

        Args:
            on_broken: Is told of each image that cannot be read back, and the others are returned.

        Raises:
            IntegrityError: An image cannot be read back, and there is no ``on_broken``.
        """
        images: list[Image] = []
        for entry in self._store.read_index().entries:
            try:
                images += [self._images.image(record) for record in self._images.records([entry])]
            except (IntegrityError, UnsupportedError) as error:
                if on_broken is None:
                    raise
                on_broken(BrokenImage(entry.reference or entry.digest, error))
        return images

    def delete_image(self, ref: str | Reference, *, force: bool = False) -> DeleteResult:
        """Remove an image; see `delete_images`."""
        return self.delete_images([ref], force=force)

    def delete_images(self, refs: Sequence[str | Reference], *, force: bool = False) -> DeleteResult:
        """Remove images, all of them or none, and free what no other image needs.

        Args:
            refs: References, digests, or unique prefixes of digests.
            force: Pass over what is unknown, and remove an image by its digest also where it has several references.

        Raises:
            NotFoundError: One is not here.
            ConflictError: One is a digest that several references have.
        """
        from micropod_img.store.removal import remove_images  # noqa: PLC0415 - not on the start-up path of a pull

        return remove_images(self._store, [str(ref) for ref in refs], force=force)

    def tag_image(self, source: str | Reference, destination: str | Reference) -> None:
        """Give an image another reference.

        Args:
            source: A reference, a digest, or a unique prefix of one.
            destination: The new reference.

        Raises:
            NotFoundError: The source is not here.
        """
        from micropod_img.store.tagging import tag_image  # noqa: PLC0415 - not on the start-up path of a pull

        tag_image(self._store, str(source), _parsed(destination))

    def collect_garbage(self) -> DeleteResult:
        """Remove every blob that no image needs and no work in progress holds."""
        from micropod_img.store.removal import collect_garbage  # noqa: PLC0415 - not on the start-up path of a pull

        return collect_garbage(self._store)

    def disk_usage(self) -> StoreUsage:
        """Return how many bytes of the disk the images take, and for whom."""
        from micropod_img.store.usage import measure  # noqa: PLC0415 - not on the start-up path of a pull

        return measure(self._store)

    def tool(self, name: str) -> Tool:
        """Return one of the pinned programs, ``crane`` or ``umoci``, its bytes checked.

        Raises:
            ToolError: It is missing or altered.
        """
        from micropod_img.tools import find_tool  # noqa: PLC0415 - not on the start-up path of a pull

        return find_tool(name, directory=self.config.tools_dir)

    def tool_versions(self) -> tuple[ToolVersion, ...]:
        """Return the pinned programs, their bytes checked."""
        tools = [self.tool(name) for name in ("crane", "umoci")]
        return tuple(ToolVersion(tool.name, tool.version, str(tool.path)) for tool in tools)

    def wanted_platform(self, platform: str | Platform | None) -> Platform:
        """Return the platform that is meant: the given one, the configuration's, or the host's.

        Raises:
            UsageError: It is not a platform.
        """
        given = platform if platform is not None else self.config.platform
        if given is None:
            return host_platform()
        return given if isinstance(given, Platform) else Platform.parse(given)


class _PullJob:
    """Pulls references for one call of the API: what they share is found once.

    Args:
        service: The service.
        options: How they are pulled.
        sink: Is told of progress.
        cancellation: Ends the work.
    """

    def __init__(
        self, service: ImageService, options: PullOptions, sink: ProgressSink, cancellation: Cancellation
    ) -> None:
        if options.policy not in POLICIES:
            raise UsageError(f"there is no pull policy {options.policy!r}", hint=f"choose of {', '.join(POLICIES)}")
        if options.all_platforms and options.platform is not None:
            raise UsageError("all platforms and one platform were asked for", hint="leave out one of the two options")
        self._service = service
        self._store = service._store  # noqa: SLF001 - this class is a part of the service
        self._images = ImageStore(self._store)
        self._options = options
        self._platform = service.wanted_platform(options.platform)
        # As ctr and nerdctl do: a platform that was named is meant exactly, the host's may be served by a lesser one.
        self._strict = options.platform is not None
        self._sink = sink
        self._cancellation = cancellation
        self._crane: PendingTool | None = None

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
        reference = _parsed(ref)
        here = None if self._options.policy == "always" else self._here(reference)
        if here is not None and (self._options.policy != "newer" or self._is_current(reference, here)):
            return self._found(reference, here)
        if self._options.policy == "never":
            raise NotFoundError(
                f"{reference.familiar} is not here for {self._platform}, and the policy is never to pull",
                code="image-not-found",
                hint=f"micropod-img pull {reference.familiar}",
            )
        return self._fetched(reference)

    def _here(self, reference: Reference) -> Record | None:
        """Return the image if it is here, whole, and for the wanted platform."""
        records = self._images.find(reference)
        if self._options.all_platforms:
            records = [record for record in records if record.entry.is_index]
        record = self._choose(records)
        if record is None:
            return None
        try:
            self._images.image(record)
            if self._options.all_platforms and not self._is_whole(record):
                return None
        except IntegrityError as error:
            if self._options.policy == "never":
                raise
            self._sink(events.Notice(str(reference), f"{error.message}; it is fetched again"))
            return None
        return record

    def _choose(self, records: Sequence[Record]) -> Record | None:
        chosen = self._images.choose(records, self._platform, strict=self._strict)
        if chosen is None and self._options.all_platforms and records:
            return records[0]
        return chosen

    def _is_whole(self, record: Record) -> bool:
        closure = self._images.closure(record.entry)
        return all(self._store.blobs.has(digest, size) for digest, size in closure.items())

    def _found(self, reference: Reference, record: Record) -> tuple[Image, int, int]:
        if record.entry.reference != str(reference):
            record = self._listed_too(reference, record)
        self._images.touch(record)
        image = self._images.image(record)
        self._sink(events.Finished(str(reference), image.digest, fetched=False, downloaded_bytes=0, reused_bytes=0))
        return image, 0, image.size

    def _listed_too(self, reference: Reference, record: Record) -> Record:
        """List an image that was found by its digest under the reference that asked for it."""
        self._store.prepare()
        with self._store.index_transaction(f"pull {reference.familiar}") as transaction:
            transaction.replace(with_entries(transaction.index, [renamed(record.entry, reference)]))
        return self._choose(self._images.find(reference)) or record

    def _is_current(self, reference: Reference, record: Record) -> bool:
        if reference.digest is not None:
            return True
        from micropod_img.pull.pull import current_digest  # noqa: PLC0415 - only calls that go to the network pay for it

        self._store.prepare()
        try:
            digest = current_digest(self._store, self._program(), self._request(reference), self._cancellation)
        except UnavailableError as error:
            self._sink(events.Notice(str(reference), f"{error.message}; what is here is used"))
            return True
        return digest in (record.digest, record.entry.index_digest)

    def _fetched(self, reference: Reference) -> tuple[Image, int, int]:
        self._start_tool_check()
        from micropod_img.pull.pull import pull  # noqa: PLC0415 - only calls that go to the network pay for it

        self._store.prepare()
        pulled = pull(
            self._store,
            self._program(),
            self._request(reference),
            sink=self._sink,
            cancellation=self._cancellation,
        )
        record = self._choose(self._images.find(reference))
        if record is None:
            raise not_here(str(reference))
        self._images.touch(record)
        image = self._images.image(record)
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

    def _start_tool_check(self) -> None:
        if self._crane is None:
            from micropod_img.tools import PendingTool  # noqa: PLC0415 - only calls that go to the network pay for it

            self._crane = PendingTool("crane", directory=self._service.config.tools_dir)

    def _program(self) -> Path:
        self._start_tool_check()
        assert self._crane is not None  # noqa: S101 - for the type checker
        return self._crane.result().path

    def _request(self, reference: Reference) -> PullRequest:
        from micropod_img.pull.crane import TimeLimits  # noqa: PLC0415 - only calls that go to the network pay for it
        from micropod_img.pull.pull import PullRequest  # noqa: PLC0415 - the same

        config = self._service.config
        timeout, stall_timeout = self._options.timeout, self._options.stall_timeout
        return PullRequest(
            reference,
            None if self._options.all_platforms else self._platform,
            strict=self._strict,
            insecure=self._options.insecure or reference.domain in config.insecure_registries,
            limits=TimeLimits(
                timeout=config.timeout if timeout is None else timeout,
                stall_timeout=config.stall_timeout if stall_timeout is None else stall_timeout,
            ),
        )


def _parsed(ref: str | Reference) -> Reference:
    return ref if isinstance(ref, Reference) else Reference.parse(ref)
