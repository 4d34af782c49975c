"""umoci, kept where it sees nothing but the layers and the directory that it fills.

umoci takes OCI media types only, splits ``DIR:TAG`` at the first colon, trusts a configuration's number of diff IDs and
follows what a layer says. So it gets a private OCI layout of one image, with manifest and configuration written here
over hard links of the layers, under paths of one word, and runs with that directory as its root. Layers pass `gate`
first; this is for what the gate and umoci itself may have missed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import run
from micropod_img.digest import Digest, hex_of
from micropod_img.errors import DiskError, IntegrityError, MicropodError, ToolError, UnsafeError
from micropod_img.fsutil import disk_error, disk_errors
from micropod_img.rootfs.fuse_file import served_file
from micropod_img.rootfs.layer_blobs import LayerBlob, PassingBlob
from micropod_img.rootfs.layer_stream import MAGIC_SIZE, compression_of
from micropod_img.rootfs.passage import NotPassedError
from micropod_img.rootfs.private_layout import TAG, blobs_of, write_layout
from micropod_img.rootfs.quoting import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from micropod_img.cancellation import Cancellation

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_FULL_MAPPING = 1 << 16
"""User or group ids that an image may use; with fewer of them, owners are kept in an extended attribute."""

_PROGRAM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Directories that a layer implies and does not list are made with 0777 & ~umask.
_WITH_UMASK = ("/bin/sh", "-c", 'umask 022 && exec "$0" "$@"')
# It makes garbage with each file; collected less often that takes a tenth of its time less, and 40 MiB of memory more.
_ENVIRONMENT = {"GOGC": "400"}
_NOT_STARTED = (125, 126, 127)  # chroot(1), "Exit status"
_HINTS_OF_SIGNALS = {"SIGKILL": "the kernel does that when memory runs out"}


class UnpackRoot:
    """A private directory that umoci has as its root: the layers of one call, and ``rootfs``.

    Args:
        directory: An empty directory that is nobody else's (mode 0700), on the filesystem that the files shall be on.
        umoci: The program.
        keep_open: File descriptors that umoci keeps, which must not lead out of the directory: locks on it.

    Raises:
        DiskError: It cannot be written.
    """

    def __init__(self, directory: Path, *, umoci: Path, keep_open: Sequence[int] = ()) -> None:
        self._directory = directory
        self._keep_open = keep_open
        self.rootfs: Final = directory / "rootfs"
        """Where the files go; a snapshot's overlay is mounted here before `unpack_layer`."""
        with disk_errors(directory):
            self.rootfs.mkdir()
            self.rootfs.chmod(0o755)
            _copy_program(umoci, directory / "umoci")
            # umoci reads there whether it is in a user namespace, and then makes plain files of devices.
            (directory / "proc/self").mkdir(parents=True)
            (directory / "proc/self/uid_map").write_text(_id_map("uid_map"))

    def unpack_image(
        self, layers: Sequence[LayerBlob], *, config: bytes, cancellation: Cancellation | None = None
    ) -> None:
        """Unpack all layers of an image into `rootfs`, bottom to top.

        Args:
            layers: The layers.
            config: The image's configuration, whose diff IDs must be those of the layers.
            cancellation: Ends umoci.

        Raises:
            IntegrityError: The configuration has other diff IDs; or as `unpack_layer`.
            UnsafeError: As `unpack_layer`.
            DiskError: As `unpack_layer`.
            ToolError: As `unpack_layer`.
        """
        from micropod_img import oci  # noqa: PLC0415 - pulls in pydantic, which single layers do not need

        expected = oci.parse_config(config, name="this image").rootfs.diff_ids
        if len(expected) != len(layers):
            raise IntegrityError(
                f"the image has {len(layers)} layers, and its configuration tells of {len(expected)}",
                code="layer-count",
            )
        if expected != tuple(layer.diff_id for layer in layers):
            raise IntegrityError("the configuration has other diff IDs than the layers", code="diff-id-mismatch")
        self._unpack(layers, cancellation)

    def unpack_layer(self, layer: LayerBlob | PassingBlob, *, cancellation: Cancellation | None = None) -> None:
        """Apply one layer to what is in `rootfs`: a mounted overlay of its parents, or an empty directory.

        Args:
            layer: The layer. One that is passing the gate is unpacked as it passes, which takes a private mount
                namespace, and this ends when all of it has.
            cancellation: Ends umoci.

        Raises:
            NotPassedError: The gate let no more pass.
            FuseUnavailableError: Here no layer can be unpacked that has not passed; nothing was.
            IntegrityError: A blob is not what its digest or diff ID says, or links to a file that is not there.
            UnsafeError: umoci refused it.
            DiskError: The disk is full, read-only, or does not allow this.
            ToolError: umoci cannot be started, or failed in a way that is not known here.
        """
        self._unpack([layer], cancellation)

    def _unpack(self, layers: Sequence[LayerBlob | PassingBlob], cancellation: Cancellation | None) -> None:
        with disk_errors(self._directory):
            self._write_image(layers)
        with contextlib.ExitStack() as served:
            passing = [layer for layer in layers if isinstance(layer, PassingBlob)]
            for layer in passing:
                path = self._blob(layer.readable_digest)
                served.enter_context(served_file(path, layer.passage.size, layer.passage.read))
                served.callback(layer.passage.stop_reading)
            completed = self._run(cancellation)
            if any(layer.passage.has_ended for layer in passing):
                raise NotPassedError
        if completed.status != 0:
            subject = f"layer {layers[0].digest}" if len(layers) == 1 else "a layer of this image"
            raise _error(completed, subject, self.rootfs)

    def _run(self, cancellation: Cancellation | None) -> run.Completed:
        argv = [*_enter(self._directory), "/umoci", "--log=error", "raw", "unpack"]
        argv += ["--rootless"] if _is_rootless() else []
        argv += ["--image", f"/image:{TAG}", "/rootfs"]
        try:
            return run.run(argv, env=_ENVIRONMENT, pass_fds=self._keep_open, cancellation=cancellation)
        except run.ProgramNotFoundError as error:
            raise ToolError(f"{error.args[0]} cannot be started", code="tool-missing") from error

    def _write_image(self, layers: Sequence[LayerBlob | PassingBlob]) -> None:
        image = self._directory / "image"
        if image.exists():
            shutil.rmtree(image)
        for layer in layers:
            if isinstance(layer, PassingBlob):
                self._blob(layer.readable_digest).touch()
            else:
                _link_or_copy(layer.path, self._blob(layer.digest))
        config = {
            "architecture": "amd64",  # the spec wants the two, umoci does not look
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
        write_layout(image, config, layers=[_describe_layer(layer) for layer in layers])

    def _blob(self, digest: Digest) -> Path:
        return blobs_of(self._directory / "image") / hex_of(digest)


class UnpackRoots:
    """Places for umoci, one for each that runs at a time.

    Args:
        directory: An empty directory that is nobody else's (mode 0700), on the filesystem that the files shall be on.
        umoci: The program.
    """

    def __init__(self, directory: Path, *, umoci: Path) -> None:
        self._directory = directory
        self._umoci = umoci
        self._numbers = itertools.count()
        self._free: list[UnpackRoot] = []

    @contextlib.contextmanager
    def root(self) -> Iterator[UnpackRoot]:
        """Take a place; it is used again, unless something went wrong in it and may have left a mount.

        Raises:
            DiskError: It cannot be written.
        """
        try:
            root = self._free.pop()
        except IndexError:
            place = self._directory / str(next(self._numbers))
            with disk_errors(place):
                place.mkdir(mode=0o700)
            root = UnpackRoot(place, umoci=self._umoci)
        yield root
        self._free.append(root)


def _describe_layer(layer: LayerBlob | PassingBlob) -> dict[str, object]:
    if isinstance(layer, PassingBlob):
        digest, size, compression = layer.readable_digest, layer.passage.size, layer.compression
    else:
        digest, size = layer.digest, layer.path.stat().st_size
        with layer.path.open("rb") as blob:
            compression = compression_of(blob.read(MAGIC_SIZE))
    return {"mediaType": _LAYER + compression.value, "digest": digest, "size": size}


def _copy_program(source: Path, destination: Path) -> None:
    """Copy umoci, which could change a hard link of itself, so that it can be started.

    By another program: of a file that was open for writing here, a child that another thread starts in that moment has
    the descriptor until its exec, and what is open for writing cannot be started (execve(2), ETXTBSY).
    """
    copy = [_program("cp"), "--reflink=auto", "--", str(source), str(destination)]
    completed = run.run(copy, env={"LC_ALL": "C.UTF-8"})
    if completed.status != 0:
        raise _system_error(completed.stderr.strip().lower(), destination, completed.stderr) or ToolError(
            "umoci cannot be copied to where it works", code="tool-not-contained", detail=completed.stderr
        )
    destination.chmod(0o755)


def _link_or_copy(source: Path, destination: Path) -> None:
    """Give umoci a blob to read: for nothing on the store's filesystem, as a copy on another."""
    if destination.exists():  # the same layer twice
        return
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copyfile(source, destination)


def _enter(directory: Path) -> list[str]:
    """Return the words before a command that make a directory its root; an ordinary user becomes root of himself."""
    become_root = [] if os.geteuid() == 0 else [_program("unshare"), "--user", "--map-root-user", "--"]
    return [*_WITH_UMASK, *become_root, _program("chroot"), str(directory)]


def _program(name: str) -> str:
    found = shutil.which(name, path=_PROGRAM_PATH)
    if found is None:
        raise ToolError(
            f"{name} is missing; looked for it in {_PROGRAM_PATH}",
            code="tool-missing",
            hint="install coreutils and util-linux",
        )
    return found


def _id_map(name: str) -> str:
    return Path("/proc/self", name).read_text() if os.geteuid() == 0 else f"0 {os.geteuid()} 1\n"


def _is_rootless() -> bool:
    """Whether too few ids are mapped to give files the owners that images have."""
    return any(
        sum(int(line.split()[2]) for line in _id_map(name).splitlines()) < _FULL_MAPPING
        for name in ("uid_map", "gid_map")
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """A failure of umoci that is known: what its last line holds, and what is said of it."""

    pattern: str
    kind: type[MicropodError]
    code: str
    message: str
    hint: str | None = None


_FETCH_AGAIN = "micropod-img verify --repair fetches it again"
_KNOWN_ERRORS = (
    _Known("diffid mismatch", IntegrityError, "diff-id-mismatch", "unpacks to something else than its image says"),
    _Known("verified reader ", IntegrityError, "digest-mismatch", "is not what its digest says", _FETCH_AGAIN),
    _Known(
        r"create \S+ reader: |discard trailing|read next entry: |short write: (gzip|flate|unexpected EOF)",
        IntegrityError,
        "corrupt-layer",
        "cannot be decompressed or is no archive",
        _FETCH_AGAIN,
    ),
    _Known(
        ": link: .*no such file or directory$",
        IntegrityError,
        "broken-link",
        "has a hard link to a file that is not there",
    ),
    _Known(
        "restore chown metadata: .*: invalid argument$",
        DiskError,
        "owner-not-mapped",
        "has a file whose owner has no subordinate id here",
        f"give the user {_FULL_MAPPING} subordinate ids in /etc/subuid and /etc/subgid",
    ),
    _Known(
        ": link: operation not permitted$",
        UnsafeError,
        "unsafe-layer",
        "has a hard link to what cannot have one, such as a directory",
        "do not use this image",
    ),
    _Known(
        "restore xattr metadata: .*: (invalid argument|numerical result out of range|argument list too long)$",
        UnsafeError,
        "unsafe-layer",
        "has an extended attribute that cannot be set",
        "do not use this image",
    ),
    _Known(
        "refusing to change type|unknown typeflag|: (file name too long|too many levels of symbolic links)$",
        UnsafeError,
        "unsafe-layer",
        "has an entry that cannot be unpacked",
        "do not use this image",
    ),
)
# The error of a system call is what umoci's line ends with; names of entries, which an image chooses, are left of it.
_SYSTEM_ERRORS = {
    ": no space left on device": errno.ENOSPC,
    ": disk quota exceeded": errno.EDQUOT,
    ": read-only file system": errno.EROFS,
    ": permission denied": errno.EACCES,
    ": operation not permitted": errno.EPERM,
    ": input/output error": errno.EIO,
    ": file too large": errno.EFBIG,
    ": operation not supported": errno.ENOTSUP,
}


def _error(completed: run.Completed, subject: str, rootfs: Path) -> MicropodError:
    """Say what umoci's failure means; its own words are kept, without what a terminal would act on."""
    said = completed.stderr.strip()
    detail = "\n".join(map(printable, completed.stderr.splitlines()))
    if completed.status < 0:
        name = signal.Signals(-completed.status).name
        return ToolError(
            f"umoci was ended by {name}", code="tool-killed", hint=_HINTS_OF_SIGNALS.get(name), detail=detail
        )
    if completed.status in _NOT_STARTED or said.startswith(("unshare: ", "chroot: ")):
        return ToolError(
            "umoci cannot be started in a root of its own",
            code="tool-not-contained",
            hint="that takes CAP_SYS_CHROOT, or user namespaces, and a filesystem that is not mounted noexec",
            detail=detail,
        )
    for known in _KNOWN_ERRORS:
        if re.search(known.pattern, said):
            return known.kind(f"{subject} {known.message}", code=known.code, hint=known.hint, detail=detail)
    return _system_error(said, rootfs, detail) or ToolError(
        f"umoci could not unpack {subject}", code="umoci-failed", detail=detail
    )


def _system_error(said: str, path: Path, detail: str) -> DiskError | None:
    for ending, number in _SYSTEM_ERRORS.items():
        if said.endswith(ending):
            error = disk_error(OSError(number, os.strerror(number)), path)
            return DiskError(error.message, code=error.code, hint=error.hint, detail=detail)
    return None
