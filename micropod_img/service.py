"""`ImageService`: everything that micropod-img does, for its own commands and for runtimes that call it as a library.

It never prints, never exits and never reads the terminal. Importing this module is cheap; what a pull over the network
needs is imported by the first call that goes there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img import progress as events
from micropod_img.cancellation import Cancellation
from micropod_img.config import load_config, store_root
from micropod_img.errors import (
    IntegrityError,
    MicropodError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from micropod_img.invoker import invoking_uid
from micropod_img.models import DeleteResult, Image, PullFailure, PullReport
from micropod_img.platforms import Platform, host_platform
from micropod_img.pull.job import PullJob
from micropod_img.pull.options import Policy, PullOptions
from micropod_img.pull.side_by_side import outcomes
from micropod_img.reference import Reference
from micropod_img.store.images import ImageStore
from micropod_img.store.store import Store
from micropod_img.store.waits import observer
from micropod_img.verification_service import VerificationService

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from micropod_img.arrivals import Arrivals
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.keywords import Pulling
    from micropod_img.pull.secret import Credential
    from micropod_img.registries import RegistryService
    from micropod_img.reports import PullPlan, StoreUsage, ToolVersion
    from micropod_img.rootfs.filesystems import RootFilesystems
    from micropod_img.store.index import LayoutIndex
    from micropod_img.tools import Tool


@dataclass(frozen=True, slots=True)
class BrokenImage:
    """An image that is listed and cannot be read back, and why."""

    ref: str
    error: MicropodError


class ImageService(VerificationService):
    """The images of one store.

    Args:
        root: The state directory; as CONTRACT.md, "Store on disk", if None.
        config: A configuration file; the usual ones if None.
        damaged: Whether a store whose version file is torn will do, as for one that is to be verified.
        progress: Is told of long waits for other processes; calls that take a sink of their own tell that.

    Raises:
        UsageError: The configuration is wrong.
        IntegrityError: The store's version file is torn.
        UnsupportedError: The store has a newer format.
        DiskError: The store is somebody else's, or cannot be read.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        config: str | Path | None = None,
        *,
        damaged: bool = False,
        progress: ProgressSink | None = None,
    ) -> None:
        uid = invoking_uid()
        self.config = load_config(None if config is None else Path(config), os.environ, uid=uid)
        self.root: Path = store_root(root, os.environ, self.config, uid)
        self._store = Store(self.root, damaged=damaged, on_wait=None if progress is None else observer(progress))
        self._images = ImageStore(self._store)
        self._filesystems: RootFilesystems | None = None

    def pull_image(
        self,
        ref: str | Reference,
        *,
        platform: str | Platform | None = None,
        all_platforms: bool = False,
        policy: Policy = "missing",
        progress: ProgressSink | None = None,
        auth: Credential | None = None,
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
            auth: A credential, instead of those that files have.
            insecure: Whether plain HTTP, and HTTPS without verification, are allowed.
            timeout: Seconds for all of it; the configuration's if None.
            stall_timeout: Seconds without an answer or a new byte; the configuration's if None.

        Returns:
            The image; of a whole index the host's, or the first.

        Raises:
            MicropodError: Every kind that CONTRACT.md, "Exit status", lists.
        """
        options = PullOptions(platform, all_platforms, policy, insecure, timeout, stall_timeout, auth)
        return self._pull(ref, options, progress, Cancellation())

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

        Raises:
            UsageError: Less than one at a time was asked for, or the options make no sense.
        """
        side_by_side = self.config.jobs if jobs is None else jobs
        if side_by_side < 1:
            raise UsageError(f"{side_by_side} at a time is not possible", hint="jobs must be a whole number above 0")
        cancellation = Cancellation()
        job = self._job(options or PullOptions(), events.serialized(progress or events.silent), cancellation)
        try:
            results = outcomes(job, refs, side_by_side, cancellation)
        finally:
            cancellation.cancel()  # an interrupt reaches this thread, and not those that read documents for it
        return PullReport(
            images=tuple(result[0] for result in results if not isinstance(result, PullFailure)),
            failures=tuple(result for result in results if isinstance(result, PullFailure)),
            downloaded_bytes=sum(result[1] for result in results if not isinstance(result, PullFailure)),
            reused_bytes=sum(result[2] for result in results if not isinstance(result, PullFailure)),
        )

    def plan_pull(
        self, ref: str | Reference, options: PullOptions | None = None, *, progress: ProgressSink | None = None
    ) -> PullPlan:
        """Say what a pull would fetch, from where, and with which credential's source; nothing is done.

        Raises:
            MicropodError: As of the pull itself.
        """
        return self._job(options or PullOptions(), progress or events.silent, Cancellation()).plan(ref)

    @property
    def registries(self) -> RegistryService:
        """Push, tags, login and logout."""
        from micropod_img.registries import RegistryService  # noqa: PLC0415 - not on the start-up path of a pull

        return RegistryService(self._store, self.config, lambda: self.tool("crane").path)

    def get_image(self, ref: str | Reference, *, platform: str | Platform | None = None) -> Image:
        """Return an image of the store.

        Args:
            ref: A reference, a digest, or a unique prefix of one.
            platform: ``os/arch[/variant]``; if None the host's, or the one platform that is here.

        Raises:
            NotFoundError: It is not here, or not for this platform.
            IntegrityError: It is here, and damaged.
        """
        wanted = self.wanted_platform(platform)

        def read(images: ImageStore) -> Image:
            records = images.lookup(str(ref))
            record = images.choose(records, wanted, strict=platform is not None)
            if record is None and platform is None and len({one.digest for one in records}) == 1:
                record = records[0]
            if record is None:
                here = ", ".join(sorted({str(images.platform_of(one)) for one in records}))
                raise NotFoundError(
                    f"{ref} is here for {here}, and not for {wanted}",
                    code="platform-not-here",
                    hint=f"choose one with --platform, or pull it: micropod-img pull {ref}",
                )
            return images.image(record)

        return self._images.consistently(read)

    def list_images(self, on_broken: Callable[[BrokenImage], None] | None = None) -> list[Image]:
        """Return all images, one for each reference and platform.

        Args:
            on_broken: Is told of each image that cannot be read back, and the others are returned.

        Raises:
            IntegrityError: An image cannot be read back, and there is no ``on_broken``.
        """
        images: list[Image] = []
        broken: list[BrokenImage] = []
        for index in self._store.indexes():
            images, broken = self._read_all(index)
            if not broken:
                break
        for one in broken:
            if on_broken is None:
                raise one.error
            on_broken(one)
        return images

    def _read_all(self, index: LayoutIndex) -> tuple[list[Image], list[BrokenImage]]:
        images: list[Image] = []
        broken: list[BrokenImage] = []
        for entry in index.entries:
            try:
                images += [self._images.image(record) for record in self._images.records([entry])]
            except (IntegrityError, UnsupportedError) as error:
                broken.append(BrokenImage(entry.reference or entry.digest, error))
        return images, broken

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
            ConflictError: One is in use by a pod, or is a digest that several references have.
        """
        from micropod_img.store.removal import remove_images  # noqa: PLC0415 - not on the start-up path of a pull

        guard = None if force else self._root_filesystems().refuse_if_in_use
        removed = remove_images(self._store, [str(ref) for ref in refs], force=force, guard=guard)
        return _joined(removed, self._root_filesystems().collect_garbage(tolerant=True))

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
        """Remove every blob that no image needs, and every snapshot that no image and no pod needs.

        What work in progress holds stays.

        Returns:
            Digests of blobs and chain IDs of snapshots, and the bytes that this freed.
        """
        from micropod_img.store.removal import collect_garbage  # noqa: PLC0415 - not on the start-up path of a pull

        return _joined(collect_garbage(self._store), self._root_filesystems().collect_garbage())

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
        from micropod_img.tools import tool_versions  # noqa: PLC0415 - not on the start-up path of a pull

        return tool_versions(self.config.tools_dir)

    def _pull_arriving(
        self,
        ref: str | Reference,
        platform: str | Platform | None,
        pull: Pulling,
        arrivals: Arrivals | None,
        cancellation: Cancellation,
    ) -> Image:
        options = PullOptions(
            platform,
            policy=pull.get("policy", "missing"),
            insecure=pull.get("insecure", False),
            timeout=pull.get("timeout"),
            stall_timeout=pull.get("stall_timeout"),
            auth=pull.get("auth"),
        )
        return self._pull(ref, options, pull.get("progress"), cancellation, arrivals)

    def _pull(
        self,
        ref: str | Reference,
        options: PullOptions,
        progress: ProgressSink | None,
        cancellation: Cancellation,
        arrivals: Arrivals | None = None,
    ) -> Image:
        job = self._job(options, progress or events.silent, cancellation, arrivals=arrivals)
        try:
            image, _, _ = job.pull(ref)
        finally:
            cancellation.cancel()  # as in `pull_images`
        return image

    def _root_filesystems(self) -> RootFilesystems:
        if self._filesystems is None:
            from micropod_img.rootfs.filesystems import RootFilesystems  # noqa: PLC0415 - not on the path of a pull

            self._filesystems = RootFilesystems(self._store, lambda: self.tool("umoci").path)
        return self._filesystems

    def _job(
        self,
        options: PullOptions,
        sink: ProgressSink,
        cancellation: Cancellation,
        store: Store | None = None,
        arrivals: Arrivals | None = None,
    ) -> PullJob:
        return PullJob(
            store=store or self._store,
            config=self.config,
            platform=self.wanted_platform(options.platform),
            options=options,
            sink=sink,
            cancellation=cancellation,
            arrivals=arrivals,
        )

    def wanted_platform(self, platform: str | Platform | None) -> Platform:
        """Return the platform that is meant: the given one, the configuration's, or the host's.

        Raises:
            UsageError: It is not a platform.
        """
        given = platform if platform is not None else self.config.platform
        if given is None:
            return host_platform()
        return given if isinstance(given, Platform) else Platform.parse(given)


def _joined(first: DeleteResult, second: DeleteResult) -> DeleteResult:
    return DeleteResult((*first.removed, *second.removed), first.freed_bytes + second.freed_bytes)


def _parsed(ref: str | Reference) -> Reference:
    return ref if isinstance(ref, Reference) else Reference.parse(ref)
