"""Pods: a root filesystem of one's own over shared snapshots, made, mounted again after a reboot, and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.errors import ConflictError, IntegrityError, MicropodError, NotFoundError, UsageError
from micropod_img.invoker import invoking_uid
from micropod_img.locks import Patience, locked_directory
from micropod_img.models import Pod
from micropod_img.rootfs.drivers.driver import PodPaths
from micropod_img.rootfs.leases import lease
from micropod_img.rootfs.lower_directories import rename_unless_lower
from micropod_img.rootfs.mountinfo import mount_points
from micropod_img.rootfs.mounts import unmount
from micropod_img.rootfs.pod_record import PodRecord, parse_pod_record
from micropod_img.store.blobs import VERIFY_HINT
from micropod_img.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from micropod_img.models import Image
    from micropod_img.rootfs.drivers.driver import Driver
    from micropod_img.rootfs.mountinfo import MountPoint
    from micropod_img.rootfs.snapshots import Call, Snapshots
    from micropod_img.rootfs.userns import NamespaceHolder
    from micropod_img.store.store import Store

_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")
_ID_BYTES = 6


@dataclass(frozen=True, slots=True)
class PodRequest:
    """What a pod shall be.

    Attributes:
        pod_id: Its id; a short one is made up if None.
        read_only: Whether nobody may write to it.
        finish: Called with the mounted pod, which it may write to, before anybody is told of it; if it fails, the pod
            is removed again.
    """

    pod_id: str | None = None
    read_only: bool = False
    finish: Callable[[Pod], None] | None = None


class Pods:
    """The pods of one store.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, image: Image, request: PodRequest, snapshots: Snapshots, driver: Driver, call: Call) -> Pod:
        """Make a pod of an image, and mount it.

        Args:
            image: The image.
            request: What the pod shall be.
            snapshots: What makes and finds its snapshots.
            driver: What mounts them.
            call: For whom.

        Raises:
            UsageError: The id is not one.
            ConflictError: There is a pod with this id.
            MicropodError: As `Snapshots.ensure`; or it cannot be mounted.
        """
        pod_id = checked_id(request.pod_id or os.urandom(_ID_BYTES).hex())
        self.sweep()
        self.refuse_taken(pod_id)
        with self._store.stage("pod") as staging:
            chain = snapshots.ensure(image, staging, call)
            record = PodRecord(
                id=pod_id,
                ref=image.ref,
                image_digest=image.digest,
                chain_ids=chain,
                driver=driver.name,
                read_only=request.read_only,
                created_at=datetime.now(UTC),
            )
            with fsutil.disk_errors(self._store.layout.pods):
                staged = PodPaths(staging.path / "pod")
                staged.directory.mkdir(mode=0o700)
                driver.prepare_pod(
                    staged,
                    snapshots.files(chain),
                    read_only=request.read_only,
                    written_first=request.finish is not None,
                )
                fsutil.write_durably(staged.draft, record.serialize())
                fsutil.fsync_directory(staged.directory)
                self._store.layout.make_pods()
                with locked_directory(staged.directory, Patience(f"pod {pod_id}")) as descriptor:
                    try:
                        self._give_name(staged, record)
                        return self._finish(record, request, snapshots, driver)
                    except BaseException:
                        paths = self._paths(pod_id)
                        if fsutil.same_file(descriptor, paths.directory):
                            self._take_back(paths)
                        raise

    def refuse_taken(self, pod_id: str) -> None:
        """Raise `ConflictError` if there is a pod with an id, or somebody makes one."""
        paths = PodPaths(self._store.layout.pod(pod_id))
        if os.path.lexists(paths.directory):
            with _locked_if_left(paths) as is_left:
                if not is_left:
                    raise _exists(pod_id)

    def sweep(self) -> None:
        """Remove what killed processes left of pods that they were making.

        What is in use is left for another time: it must not keep anyone from their work.
        """
        for paths in self._drafts():
            with contextlib.suppress(MicropodError, OSError), _locked_if_left(paths) as is_left:
                if is_left:
                    self._take_back(paths)

    def get(self, pod_id: str) -> Pod:
        """Return a pod.

        Raises:
            UsageError: The id is not one.
            NotFoundError: There is no such pod.
            IntegrityError: Its record is corrupt.
        """
        return self._pod(self.record(pod_id), self._mount_points())

    def all(self) -> list[Pod]:
        """Return all pods, the oldest first.

        Raises:
            IntegrityError: The record of one is corrupt.
        """
        mounted = self._mount_points()
        pods = [self._pod(record, mounted) for record in self.records()]
        return sorted(pods, key=lambda pod: (pod.created_at, pod.id))

    def records(self) -> Iterator[PodRecord]:
        """Yield what each pod is made of.

        Raises:
            IntegrityError: The record of one is corrupt.
        """
        with fsutil.disk_errors(self._store.layout.pods), contextlib.suppress(FileNotFoundError):
            for directory in self._store.layout.pods.iterdir():
                with contextlib.suppress(NotFoundError):  # removed meanwhile
                    if _ID.match(directory.name):
                        yield self.record(directory.name)

    def record(self, pod_id: str) -> PodRecord:
        """Return what a pod is made of; see `get`."""
        path = self._paths(pod_id).record
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _unknown(pod_id) from error
        except OSError as error:
            raise fsutil.disk_error(error, path) from error
        return parse_pod_record(content, name=str(path))

    def mount(self, pod_id: str, snapshots: Snapshots, driver: Driver) -> Pod:
        """Mount a pod, unless it is mounted.

        Raises:
            NotFoundError: There is no such pod.
            IntegrityError: A snapshot that it needs is missing.
            MicropodError: It cannot be mounted.
        """
        with self._held(pod_id) as paths:
            record = self.record(pod_id)
            if not self._is_mounted(record, mount_points()):
                with self._store.stage("pod-mount") as staging:
                    # gc spares what a pod needs; a repair takes what is bad of it, unless it is in use.
                    lease(self._store.layout, staging, record.chain_ids, self._store.on_wait)
                    _require_all(record, snapshots)
                    driver.mount_pod(paths, snapshots.files(record.chain_ids), read_only=record.read_only)
            return self.get(pod_id)

    def unmount(self, pod_id: str) -> Pod:
        """Unmount a pod; what was written to it stays.

        Raises:
            NotFoundError: There is no such pod.
            ConflictError: It is in use; the error says by whom.
        """
        with self._held(pod_id) as paths:
            unmount(paths.rootfs)
            return self.get(pod_id)

    def remove(self, pod_id: str) -> None:
        """Unmount a pod and remove it with all that was written to it.

        Raises:
            NotFoundError: There is no such pod.
            ConflictError: It is in use; the error says by whom.
        """
        if not self._paths(pod_id).directory.is_dir():
            raise _unknown(pod_id)
        with self._store.stage("pod-trash") as trash:
            doomed = trash.path / "pod"
            with self._held(pod_id) as paths:
                unmount(paths.rootfs)
                with fsutil.disk_errors(paths.directory):
                    if not rename_unless_lower(paths.directory, doomed):
                        doomed = paths.directory
                        with contextlib.suppress(FileNotFoundError):
                            paths.record.rename(paths.draft)  # what has no record is no pod, and swept with a draft
                    fsutil.fsync_directory(self._store.layout.pods)
            remove_tree(doomed)

    def _drafts(self) -> list[PodPaths]:
        """Return the pods that are being made, or were when somebody was killed."""
        try:
            # As text: whoever makes a pod looks here, and there may be a thousand others.
            with os.scandir(self._store.layout.pods) as entries:
                found = [entry.path for entry in entries if os.path.lexists(f"{entry.path}/pod.json.new")]
        except FileNotFoundError:
            return []
        return [PodPaths(Path(path)) for path in found]

    def _give_name(self, staged: PodPaths, record: PodRecord) -> None:
        try:
            staged.directory.rename(self._store.layout.pod(record.id))
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _exists(record.id) from error
            raise

    def _finish(self, record: PodRecord, request: PodRequest, snapshots: Snapshots, driver: Driver) -> Pod:
        paths = self._paths(record.id)
        files = snapshots.files(record.chain_ids)
        driver.mount_pod(paths, files, read_only=record.read_only and request.finish is None)
        if request.finish is not None:
            request.finish(self._pod(record, None))
            if record.read_only:
                unmount(paths.rootfs)
                driver.mount_pod(paths, files, read_only=True)
        paths.draft.rename(paths.record)
        for directory in (paths.directory, self._store.layout.pods):
            fsutil.fsync_directory(directory)
        return self._pod(record, None)

    def _take_back(self, paths: PodPaths) -> None:
        with self._store.stage("pod-trash") as trash:
            unmount(paths.rootfs)
            paths.directory.rename(trash.path / "pod")

    def _pod(self, record: PodRecord, mounted: dict[Path, MountPoint] | None) -> Pod:
        """Return a pod; without a list of mounts it is known to be mounted."""
        paths = self._paths(record.id)
        holder = None if record.is_copy else self._holder()
        return Pod(
            id=record.id,
            ref=record.ref,
            image_digest=record.image_digest,
            rootfs=paths.rootfs,
            bundle=paths.directory if paths.config.exists() else None,
            driver=record.driver,
            mounted=mounted is None or self._is_mounted(record, mounted),
            created_at=record.created_at,
            chain_ids=record.chain_ids,
            read_only=record.read_only,
            namespace_pid=None if holder is None else holder.pid,
        )

    def _holder(self) -> NamespaceHolder | None:
        """Return who holds the namespaces in which an ordinary user's pods are mounted; root has none."""
        if invoking_uid() == 0:
            return None
        from micropod_img.rootfs.userns import find_holder  # noqa: PLC0415 - root has no need of it

        return find_holder(self._store.layout)

    def _mount_points(self) -> dict[Path, MountPoint]:
        """Return what is mounted where pods are: for an ordinary user outside, in the store's user namespace."""
        if os.geteuid() == 0:
            return mount_points()
        holder = self._holder()
        return {} if holder is None else mount_points(holder.pid)

    def _is_mounted(self, record: PodRecord, mounted: dict[Path, MountPoint]) -> bool:
        # A copy is there whether or not anything is mounted.
        return record.is_copy or self._paths(record.id).rootfs.resolve() in mounted

    def _paths(self, pod_id: str) -> PodPaths:
        return PodPaths(self._store.layout.pod(checked_id(pod_id)))

    @contextlib.contextmanager
    def _held(self, pod_id: str) -> Iterator[PodPaths]:
        """Be the only one who mounts, unmounts or removes a pod."""
        paths = self._paths(pod_id)
        with contextlib.ExitStack() as held:
            held.enter_context(fsutil.disk_errors(paths.directory))
            try:
                lock = locked_directory(paths.directory, Patience(f"pod {pod_id}", self._store.on_wait))
                descriptor = held.enter_context(lock)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _unknown(pod_id) from error
            if not fsutil.same_file(descriptor, paths.directory):  # removed while this waited
                raise _unknown(pod_id)
            yield paths


def checked_id(pod_id: str) -> str:
    """Return a pod id as it was given.

    Raises:
        UsageError: It does not match ``[a-zA-Z0-9][a-zA-Z0-9_.-]*``, has ``..``, or more than 128 characters.
    """
    if _ID.match(pod_id) is None or ".." in pod_id:
        raise UsageError(
            f"{pod_id!r} is not a pod id",
            code="invalid-pod-id",
            hint="letters, digits, '_', '.' and '-', at most 128; a letter or digit first, no '..'",
        )
    return pod_id


@contextlib.contextmanager
def _locked_if_left(paths: PodPaths) -> Iterator[bool]:
    """Yield whether a directory is what a killed process left of a pod; if so, nobody else takes it meanwhile."""
    try:
        descriptor = os.open(paths.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        is_unused = fsutil.try_lock(descriptor) and fsutil.same_file(descriptor, paths.directory)
        yield is_unused and paths.draft.exists()
    finally:
        os.close(descriptor)


def _require_all(record: PodRecord, snapshots: Snapshots) -> None:
    for chain in record.chain_ids:
        if record.driver != "copy" and not snapshots.has(chain):
            raise IntegrityError(
                f"pod {record.id} needs snapshot {chain}, which is missing", code="missing-snapshot", hint=VERIFY_HINT
            )


def _unknown(pod_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no pod {pod_id} here", code="pod-not-found", hint="micropod-img pod ls lists what is here"
    )


def _exists(pod_id: str) -> ConflictError:
    return ConflictError(f"there is a pod {pod_id} already", code="pod-exists", hint="choose another id, or remove it")
