"""Root filesystems of one store: the use cases that are made of snapshots, pods, mounts and the chosen driver."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.errors import ConflictError, IntegrityError, NotFoundError, UnsupportedError, UsageError
from micropod_img.models import DeleteResult
from micropod_img.rootfs.ahead import UnpackingAhead
from micropod_img.rootfs.drivers.choice import DriverSelection
from micropod_img.rootfs.drivers.driver import PodPaths
from micropod_img.rootfs.mountinfo import mounted_at
from micropod_img.rootfs.mounts import snapshot_of, unmount
from micropod_img.rootfs.pods import PodRequest, Pods, checked_id
from micropod_img.rootfs.snapshots import Call, Snapshots
from micropod_img.store.holding import read_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.models import DriverChoice, Image, Layer, Pod
    from micropod_img.problems import Problem, Repair
    from micropod_img.rootfs.drivers.driver import Driver
    from micropod_img.rootfs.layer_source import LayerSource
    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store


@dataclass(frozen=True, slots=True)
class PodWish:
    """What a caller wants of a pod.

    Attributes:
        pod_id: Its id; made up if None.
        read_only: Whether nobody may write to it.
        bundle: Whether it gets a ``config.json``.
        args: Instead of the image's command; only with a bundle.
        terminal: Whether its process gets a terminal; only with a bundle.
    """

    pod_id: str | None = None
    read_only: bool = False
    bundle: bool = False
    args: Sequence[str] | None = None
    terminal: bool = False


class RootFilesystems:
    """What can be made of the images of one store.

    Args:
        store: The store.
        umoci: Finds the program, when it is needed.
    """

    def __init__(self, store: Store, umoci: Callable[[], Path]) -> None:
        self._store = store
        self._umoci = umoci
        self._selection = DriverSelection(store)
        self.pods = Pods(store)

    def driver_choice(self) -> DriverChoice:
        """Return what root filesystems are made with here, chosen now if it was not before.

        Raises:
            UnsupportedError: What the pods here were made with does not work any more.
        """
        self.enter_user_namespace()
        return self._driver(None)[1]

    def enter_user_namespace(self) -> str | None:
        """Make this process root where the pods are mounted; for root nothing happens.

        Returns:
            What the user should know of a namespace that was made just now.

        Raises:
            MicropodError: As `micropod_img.rootfs.userns.enter`.
        """
        if os.geteuid() == 0:
            return None
        from micropod_img.rootfs.userns import enter  # noqa: PLC0415 - root has no need of it

        notice = enter(self._store.layout, self._store.on_wait).notice
        self._store.prepare()  # what killed processes left of other ids' files can be swept in here only
        return notice

    def unpack(self, image: Image, destination: Path, call: Call) -> Path:
        """Unpack an image to a plain directory; see `micropod_img.rootfs.unpack.unpack_image`."""
        from micropod_img.rootfs.unpack import unpack_image  # noqa: PLC0415 - pulls in pydantic, which pods do without

        self._store.prepare()
        return unpack_image(self._store, image, destination, umoci=self._umoci(), call=call)

    def check_destination(self, destination: Path) -> None:
        """Raise what `unpack` would raise of its destination, before anything is pulled."""
        from micropod_img.rootfs.unpack import checked_destination  # noqa: PLC0415 - pods do without it

        checked_destination(destination, self._store)

    def check_wish(self, wish: PodWish) -> None:
        """Raise what `create_pod` would raise of a wish, before anything is pulled.

        Raises:
            UsageError: The id is not one; or there are arguments, or a terminal, and no bundle for them.
            ConflictError: There is a pod with this id.
        """
        if wish.args is not None and not wish.bundle:
            raise UsageError("arguments were given, and no bundle asked for", hint="add --bundle")
        if wish.terminal and not wish.bundle:
            raise UsageError("a terminal was asked for, and no bundle", hint="add --bundle")
        if wish.pod_id is not None:
            self.pods.refuse_taken(checked_id(wish.pod_id))

    def create_pod(self, image: Image, wish: PodWish, call: Call) -> Pod:
        """Make a pod and mount it; see `Pods.create`.

        Args:
            image: The image.
            wish: What the pod shall be.
            call: For whom.
        """
        self.check_wish(wish)
        self.enter(call)
        self._store.layout.prepare(self._store.on_wait)
        driver, _ = self._driver(call)
        finish = (lambda pod: self._write_bundle(pod, image, wish)) if wish.bundle else None
        request = PodRequest(wish.pod_id, read_only=wish.read_only, finish=finish)
        return self.pods.create(image, request, self._snapshots(driver), driver, call)

    def ahead(self, call: Call, pull: Cancellation) -> UnpackingAhead:
        """Return what unpacks an image while it is pulled, for a pod or a mount of it.

        Args:
            call: For whom; told of progress by another thread than the caller's.
            pull: Is cancelled when it cannot be unpacked.
        """
        return UnpackingAhead(self._store, self._make_arriving, call, pull)

    def mount_pod(self, pod_id: str) -> Pod:
        """Mount a pod unless it is mounted; see `Pods.mount`."""
        self.pods.record(pod_id)
        self.enter_user_namespace()
        self._store.layout.prepare(self._store.on_wait)
        driver, _ = self._driver(None)
        return self.pods.mount(pod_id, self._snapshots(driver), driver)

    def unmount_pod(self, pod_id: str) -> Pod:
        """Unmount a pod; see `Pods.unmount`."""
        self.pods.record(pod_id)
        self.enter_user_namespace()
        return self.pods.unmount(pod_id)

    def remove_pod(self, pod_id: str) -> None:
        """Remove a pod; see `Pods.remove`."""
        checked_id(pod_id)
        self.enter_user_namespace()
        self._store.freeing(lambda: self.pods.remove(pod_id))

    def mount_image(self, image: Image, target: Path, call: Call) -> Path:
        """Let an image's files be seen in a directory, read-only.

        Args:
            image: The image.
            target: An existing directory; what is in it is hidden while the image is mounted.
            call: For whom.

        Returns:
            The directory, absolute and without links.

        Raises:
            NotFoundError: There is no such directory.
            ConflictError: An image is mounted there already.
            MicropodError: As `Snapshots.ensure`; or it cannot be mounted.
        """
        self.enter(call)
        place = target.resolve()
        if not place.is_dir():
            raise NotFoundError(f"{target} is not a directory", code="no-such-directory", hint="make it first")
        if place.is_relative_to(self._store.layout.root.resolve()):
            raise UsageError(f"{target} is inside of the store", hint="choose a directory elsewhere")
        mounted = mounted_at(place)
        if mounted is not None and snapshot_of(mounted) is not None:
            raise ConflictError(
                f"an image is mounted at {target} already",
                code="mounted-already",
                hint=f"micropod-img umount {target}",
            )
        self._store.layout.prepare(self._store.on_wait)
        driver, _ = self._driver(call)
        snapshots = self._snapshots(driver)
        with self._store.stage("mount") as staging:
            chain = snapshots.ensure(image, staging, call)
            driver.mount_image(snapshots.files(chain), place)
        return place

    def unmount_image(self, target: Path) -> Path:
        """Unmount an image.

        Args:
            target: Where it is mounted.

        Returns:
            The directory, absolute and without links.

        Raises:
            NotFoundError: No image is mounted there.
            ConflictError: It is in use; the error says by whom.
        """
        self.enter_user_namespace()
        place = target.resolve()
        mounted = mounted_at(place)
        if mounted is None or snapshot_of(mounted) is None:
            raise NotFoundError(f"no image is mounted at {target}", code="not-mounted")
        if place.is_relative_to(self._store.layout.pods.resolve()):
            raise UsageError(
                f"{target} is the root filesystem of a pod", hint=f"micropod-img pod umount {place.parent.name}"
            )
        unmount(place)
        return place

    def refuse_if_in_use(self, doomed: frozenset[Digest]) -> None:
        """Raise `ConflictError` if a pod was made of one of these images."""
        users = sorted(record.id for record in self.pods.records() if record.image_digest in doomed)
        if users:
            pods = f"pod {users[0]}" if len(users) == 1 else f"pods {', '.join(users)}"
            raise ConflictError(
                f"the image is in use by {pods}",
                code="image-in-use",
                hint="remove them first, or use --force: they keep their files",
            )

    def collect_garbage(self, *, tolerant: bool = False) -> DeleteResult:
        """Remove the snapshots that nobody needs; see `collect_snapshots`.

        Args:
            tolerant: Whether nothing is removed, in place of an error, where nobody can know what a pod needs, or
                this process cannot enter the user namespace in which the snapshots are.
        """
        from micropod_img.rootfs.collection import collect_snapshots  # noqa: PLC0415 - pods do without it

        try:
            if self._store.layout.snapshots.exists():  # what is mounted keeps its snapshots
                self.enter_user_namespace()
            self.pods.sweep()
            return collect_snapshots(self._store)
        except (IntegrityError, ConflictError, UnsupportedError):
            if tolerant:
                return DeleteResult((), 0)
            raise

    def repair(self, problems: Iterable[Problem], call: Call) -> tuple[Repair, ...]:
        """Put snapshots and pods right; see `micropod_img.rootfs.repair`."""
        from micropod_img.rootfs.repair import RootfsRepair  # noqa: PLC0415 - asked for once in a while

        repair = RootfsRepair(self._store, lambda: self._snapshots(self._driver(None)[0]), call)
        repair.run(problems)
        return tuple(repair.repaired)

    def enter(self, call: Call) -> None:
        """Do as `enter_user_namespace`; what the user should know, their progress tells."""
        notice = self.enter_user_namespace()
        if notice is not None:
            call.tell(notice)

    def _driver(self, call: Call | None) -> tuple[Driver, DriverChoice]:
        known = self._selection.recorded()
        is_new = known is None
        if known is None:
            self._store.prepare()
            known = self._selection.choose(in_use=self._snapshots_are_in_use())
        # What a copy costs, it costs each time; that the driver is another one than usual, is said once.
        if known[1].rejected and call is not None and (is_new or not known[0].mounts):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in known[1].rejected)
            call.tell(f"{known[1].reason} ({reasons})")
        return known

    def _snapshots_are_in_use(self) -> bool:
        from micropod_img.rootfs.collection import snapshots_in_use  # noqa: PLC0415 - a choice is made once

        return snapshots_in_use(self._store)

    def _make_arriving(self, layers: Sequence[Layer], source: LayerSource, staging: Staging, call: Call) -> None:
        driver, _ = self._driver(call)
        self._snapshots(driver).make_arriving(layers, source, staging, call)

    def _snapshots(self, driver: Driver) -> Snapshots:
        return Snapshots(self._store, driver, self._umoci)

    def _write_bundle(self, pod: Pod, image: Image, wish: PodWish) -> None:
        from micropod_img.rootfs.bundle import BundleOptions, make_bundle  # noqa: PLC0415 - pulls in pydantic

        options = BundleOptions(pod.id, wish.args, pod.read_only, wish.terminal)
        config = read_config(self._store, image)
        paths = PodPaths(pod.rootfs.parent)
        with self._store.stage("bundle") as staging:
            content = make_bundle(
                pod.rootfs, options, config=config, ref=image.ref, umoci=self._umoci(), workspace=staging.path
            )
            with fsutil.disk_errors(paths.config):
                fsutil.fsync_directory(pod.rootfs)  # which has got mount points
                fsutil.replace_durably(paths.config, content, staging=staging.path / "config.json.new")
