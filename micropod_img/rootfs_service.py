"""The part of `micropod_img.service.ImageService` that makes root filesystems of images: directories, mounts, pods."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img import progress as events
from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.limits import refuse_many_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from micropod_img.arrivals import Arrivals
    from micropod_img.config import Config
    from micropod_img.limits import Limits
    from micropod_img.models import DriverChoice, Image, Pod
    from micropod_img.platforms import Platform
    from micropod_img.pull.keywords import Pulling
    from micropod_img.reference import Reference
    from micropod_img.rootfs.filesystems import RootFilesystems
    from micropod_img.rootfs.snapshots import Call


class RootFilesystemService(ABC):
    """Use cases that pull an image if that is needed, and make something of it."""

    config: Config

    @abstractmethod
    def pull_image(
        self, ref: str | Reference, *, platform: str | Platform | None = None, **pull: Unpack[Pulling]
    ) -> Image:
        """Return an image, pulled first if the policy says so."""

    @abstractmethod
    def _pull_arriving(
        self,
        ref: str | Reference,
        platform: str | Platform | None,
        pull: Pulling,
        arrivals: Arrivals | None,
        cancellation: Cancellation,
    ) -> Image:
        """Return an image as `pull_image` does, and tell of each layer as soon as it is here."""

    @abstractmethod
    def _root_filesystems(self) -> RootFilesystems:
        """Return what makes root filesystems, imported when it is first needed."""

    def unpack(
        self,
        ref: str | Reference,
        dest: str | Path,
        *,
        platform: str | Platform | None = None,
        limits: Limits | None = None,
        **pull: Unpack[Pulling],
    ) -> Path:
        """Unpack an image to a plain, self-contained directory, which appears whole or not at all.

        All files of an ordinary user's directory are that user's, who could not remove others'; where
        `enter_user_namespace` was called before, they keep their owners.

        Args:
            ref: A reference.
            dest: A directory that does not exist or is empty.
            platform: ``os/arch[/variant]``; the host's if None.
            limits: What the image may take; what the configuration says if None.
            **pull: How it is pulled first, as for `pull_image`.

        Returns:
            The directory, absolute.

        Raises:
            ConflictError: There is something at ``dest``.
            MicropodError: As `pull_image`; or the image is refused, damaged, or there is no room.
        """
        self._root_filesystems().check_destination(Path(dest))
        image, call = self._pulled(ref, platform, pull, limits)
        return self._root_filesystems().unpack(image, Path(dest), call)

    def create_pod(
        self,
        ref: str | Reference,
        *,
        pod_id: str | None = None,
        platform: str | Platform | None = None,
        bundle: bool = False,
        args: Sequence[str] | None = None,
        read_only: bool = False,
        terminal: bool = False,
        limits: Limits | None = None,
        **pull: Unpack[Pulling],
    ) -> Pod:
        """Make a pod: a root filesystem of its own, mounted at `Pod.rootfs`.

        Args:
            ref: A reference.
            pod_id: ``[a-zA-Z0-9][a-zA-Z0-9_.-]*``, 128 characters at most, no ``..``; made up if None.
            platform: ``os/arch[/variant]``; the host's if None.
            bundle: Whether it gets a ``config.json``, with which a runtime can start it.
            args: Instead of the image's command, in a bundle.
            read_only: Whether nobody may write to it.
            terminal: Whether the process of a bundle gets a terminal, which its runtime then needs.
            limits: What the image may take; what the configuration says if None.
            **pull: How the image is pulled first, as for `pull_image`.

        Raises:
            ConflictError: There is a pod with this id.
            MicropodError: As `unpack`; or it cannot be mounted.
        """
        from micropod_img.rootfs.filesystems import PodWish  # noqa: PLC0415 - not on the start-up path of a pull

        wish = PodWish(pod_id, read_only=read_only, bundle=bundle, args=args, terminal=terminal)
        self._root_filesystems().check_wish(wish)
        with self._pulled_and_unpacked(ref, platform, pull, limits) as (image, call):
            return self._root_filesystems().create_pod(image, wish, call)

    def get_pod(self, pod_id: str) -> Pod:
        """Return a pod; one that is unknown is a `NotFoundError`."""
        return self._root_filesystems().pods.get(pod_id)

    def list_pods(self) -> list[Pod]:
        """Return all pods, the oldest first."""
        return self._root_filesystems().pods.all()

    def remove_pod(self, pod_id: str) -> None:
        """Unmount a pod and remove it with all that was written to it; one in use is a `ConflictError`."""
        self._root_filesystems().remove_pod(pod_id)

    def mount_pod(self, pod_id: str) -> Pod:
        """Mount a pod unless it is mounted, as after a reboot it is not."""
        return self._root_filesystems().mount_pod(pod_id)

    def unmount_pod(self, pod_id: str) -> Pod:
        """Unmount a pod, keeping what was written to it; one in use is a `ConflictError`."""
        return self._root_filesystems().unmount_pod(pod_id)

    def mount_image(
        self,
        ref: str | Reference,
        directory: str | Path,
        *,
        platform: str | Platform | None = None,
        limits: Limits | None = None,
        **pull: Unpack[Pulling],
    ) -> Path:
        """Let an image's files be seen in an existing directory, read-only; setuid files and devices have no effect.

        Raises:
            ConflictError: An image is mounted there already.
            MicropodError: As `unpack`; or it cannot be mounted.
        """
        with self._pulled_and_unpacked(ref, platform, pull, limits) as (image, call):
            return self._root_filesystems().mount_image(image, Path(directory), call)

    def unmount_image(self, directory: str | Path) -> Path:
        """Unmount an image; a directory where none is mounted is a `NotFoundError`, one in use a `ConflictError`."""
        return self._root_filesystems().unmount_image(Path(directory))

    def enter_user_namespace(self) -> str | None:
        """Make this process, for good, root where an ordinary user's pods are mounted; for root nothing happens.

        What mounts does this by itself. It takes a process with a single thread.

        Returns:
            What the user should know of a namespace that was made just now.

        Raises:
            ConflictError: This process has several threads.
            UnsupportedError: User namespaces are not allowed here.
        """
        return self._root_filesystems().enter_user_namespace()

    def driver_choice(self) -> DriverChoice:
        """Return what root filesystems are made with here, and why."""
        return self._root_filesystems().driver_choice()

    def _pulled(
        self, ref: str | Reference, platform: str | Platform | None, pull: Pulling, limits: Limits | None
    ) -> tuple[Image, Call]:
        from micropod_img.rootfs.snapshots import Call  # noqa: PLC0415 - not on the start-up path of a pull

        image = self.pull_image(ref, platform=platform, **pull)
        refuse_many_layers(image.ref or str(ref), len(image.layers))  # of an adopted layout nobody counted them yet
        sink = pull.get("progress") or events.silent
        return image, Call(image.ref or str(ref), sink, Cancellation(), limits or self.config.limits)

    @contextlib.contextmanager
    def _pulled_and_unpacked(
        self, ref: str | Reference, platform: str | Platform | None, pull: Pulling, limits: Limits | None
    ) -> Iterator[tuple[Image, Call]]:
        """Pull an image if need be, and then unpack each layer while later ones are on their way."""
        from micropod_img.rootfs.snapshots import Call  # noqa: PLC0415 - not on the start-up path of a pull

        sink = events.serialized(pull.get("progress") or events.silent)
        call = Call(str(ref), sink, Cancellation(), limits or self.config.limits)
        self._root_filesystems().enter(call)  # what shows progress, and a pull itself, has threads
        ending = Cancellation()
        with self._root_filesystems().ahead(call, ending) as ahead:
            try:
                image = self._pull_arriving(ref, platform, pull | {"progress": sink}, ahead, ending)
            except CancelledError:
                ahead.raise_error()
                raise
            refuse_many_layers(image.ref or str(ref), len(image.layers))  # as above
            ahead.finish()
            yield image, replace(call, ref=image.ref or str(ref))
