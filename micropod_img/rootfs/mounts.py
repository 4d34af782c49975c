"""Mount and unmount overlays (kernel documentation, filesystems/overlayfs.rst; fsopen(2), mount(2))."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img.errors import ConflictError, DiskError, MicropodError, UnsupportedError
from micropod_img.rootfs import syscalls
from micropod_img.rootfs.mountinfo import holders, mounted_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from micropod_img.rootfs.mountinfo import MountPoint

_SOURCE: Final = "micropod:"
FUSE_KIND: Final = "fuse.fuse-overlayfs"
_TOPMOST_LOWER = re.compile(rb"lowerdir=snapshots/([0-9a-f]{64}|empty)(?![0-9a-z-])")

_OPTIONS = {"index": "off", "metacopy": "off", "redirect_dir": "nofollow"}
_LONGEST_VALUE = 255  # fsconfig(2) copies 256 bytes
_OPTION_PAGE = 4095  # mount(2) copies one page
_PLAIN = re.compile(r"[A-Za-z0-9/._@+=~ -]*\Z")
_HOLDERS_SHOWN = 3
_EXEC_SECONDS = 2.0
_POLL_SECONDS = 0.005


def source_of(lowers: Sequence[Path]) -> str:
    """Return what a mount of snapshots is called in mountinfo, so that it is known for ours, and what it needs.

    Args:
        lowers: Files of snapshots, bottom to top.
    """
    return _SOURCE + (lowers[-1].parent.name if lowers else "")


def snapshot_of(mount: MountPoint) -> str | None:
    """Return the name of the topmost snapshot that a mount of ours is made of; None for others' mounts."""
    if mount.kind == FUSE_KIND:
        return _snapshot_served_at(mount.path)
    return mount.source.removeprefix(_SOURCE) if mount.source.startswith(_SOURCE) else None


def _snapshot_served_at(path: Path) -> str | None:
    """Read, from the command line of the process that serves it, what a fuse-overlayfs mount is made of.

    It ignores ``fsname``, so the mount itself does not say.
    """
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and (process / "comm").read_bytes().strip() == b"fuse-overlayfs":
                arguments = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                if os.fsdecode(arguments[-1]) == str(path):
                    found = _TOPMOST_LOWER.search(arguments[-2])
                    return None if found is None else found[1].decode().removeprefix("empty")
    return None


@dataclass(frozen=True, slots=True)
class Overlay:
    """What an overlay is made of.

    Attributes:
        source: What it is called in mountinfo.
        anchor: A directory that all the others are below of.
        lowers: Directories that are only read, bottom to top.
        upper: Where changes go; None for an overlay that is only read, which takes two lowers at least.
        work: An empty directory on the filesystem of the upper one.
        userxattr: Whether it keeps its own attributes as ``user.overlay.…``, as in a user namespace it must.
        is_volatile: Whether nothing is made durable when it is unmounted, as far as the kernel can leave that out.
    """

    source: str
    anchor: Path
    lowers: tuple[Path, ...]
    upper: Path | None = None
    work: Path | None = None
    userxattr: bool = False
    is_volatile: bool = False


def mount_overlay(
    overlay: Overlay,
    target: Path,
    *,
    nosuid_nodev: bool = False,
    short_name: Callable[[Path], Path] | None = None,
) -> None:
    """Mount an overlay.

    Args:
        overlay: What it is made of.
        target: An existing directory.
        nosuid_nodev: Whether setuid files and devices in it are without effect.
        short_name: Makes a link to a lower directory, all of them in one place with names of a few signs, for kernels
            before 6.8, which take one page of options.

    Raises:
        ConflictError: Something is busy.
        DiskError: This process may not mount.
        UnsupportedError: This kernel or filesystem cannot do it.
    """
    try:
        with _named(overlay) as name:
            try:
                _mount_new(overlay, target, name, nosuid_nodev=nosuid_nodev)
            except _NoLowerDirPlusError:
                _mount_old(overlay, target, name, nosuid_nodev=nosuid_nodev, short_name=short_name)
    except OSError as error:
        raise mount_error(error, target) from error


def bind_mount(source: Path, target: Path) -> None:
    """Let a directory be seen at another place too.

    Raises:
        MicropodError: As `mount_overlay`.
    """
    try:
        syscalls.mount(str(source), str(target), "", syscalls.MS_BIND)
    except OSError as error:
        raise mount_error(error, target) from error


def forbid_writing(target: Path) -> None:
    """Make a mount of ours read-only for everybody, from now on.

    Raises:
        MicropodError: As `mount_overlay`.
    """
    try:
        syscalls.mount("none", str(target), "", syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY)
    except OSError as error:
        raise mount_error(error, target) from error


def unmount_private(target: Path) -> None:
    """Unmount what nobody outside of this thread's mount namespace can have used.

    A child that another thread starts meanwhile has what we had open in there until its exec, which is waited for.

    Raises:
        MicropodError: As `unmount`.
    """
    deadline = time.monotonic() + _EXEC_SECONDS
    while True:
        try:
            return syscalls.umount(str(target))
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise mount_error(error, target) from error
        time.sleep(_POLL_SECONDS)


def unmount(target: Path) -> None:
    """Unmount what is mounted at a directory, or do nothing where nothing is.

    Raises:
        ConflictError: It is in use; the error says by whom.
        DiskError: This process may not unmount.
    """
    mounted = mounted_at(target)
    if mounted is None:
        return
    # Unmounting succeeds here while a container that has its own mount of it goes on, on files about to be removed.
    users = holders(mounted.device)
    if users:
        raise busy(target, [str(user) for user in users])
    unmount_private(target)


def busy(target: Path, users: list[str]) -> ConflictError:
    """Return the error for a mount that is in use by those who are named."""
    shown = ", ".join(users[:_HOLDERS_SHOWN]) or "somebody who cannot be seen from here"
    more = f" and {len(users) - _HOLDERS_SHOWN} more" if len(users) > _HOLDERS_SHOWN else ""
    return ConflictError(f"{target} is in use by {shown}{more}", code="mount-busy", hint="end that first")


def mount_error(error: OSError, target: Path) -> MicropodError:
    """Translate what mount(2) and its relatives refuse."""
    reason = error.strerror or str(error)
    detail = "; ".join([str(error), *getattr(error, "__notes__", ())])
    if error.errno == errno.EBUSY:
        return busy(target, [])
    if error.errno in (errno.EPERM, errno.EACCES):
        return DiskError(
            f"{target} cannot be mounted or unmounted: {reason}",
            code="mount-permission",
            hint="run as root, or inside of micropod-img unshare",
            detail=detail,
        )
    if error.errno == errno.ENOENT:
        return DiskError(f"{target} cannot be mounted: part of it is missing", code="mount-missing", detail=detail)
    if error.errno == errno.ENOSPC:
        hint = "raise the sysctl fs.mount-max"
        return DiskError(f"{target}: there are too many mounts", code="too-many-mounts", hint=hint, detail=detail)
    return UnsupportedError(
        f"{target} cannot be mounted: {reason}",
        code="mount-refused",
        hint="micropod-img doctor says what works here",
        detail=detail,
    )


class _NoLowerDirPlusError(Exception):
    """The kernel has no fsconfig(2), or its overlay takes no ``lowerdir+`` (before 6.8)."""


@contextlib.contextmanager
def _named(overlay: Overlay) -> Iterator[Callable[[Path], str]]:
    """Yield how to name a directory in an option: no signs that options take apart, and short enough."""
    used = [path for path in (*overlay.lowers, overlay.upper, overlay.work) if path is not None]
    if all(_PLAIN.match(str(path)) and len(str(path)) <= _LONGEST_VALUE for path in used):
        yield str
        return
    descriptor = os.open(overlay.anchor, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield lambda path: f"/proc/self/fd/{descriptor}/{path.relative_to(overlay.anchor)}"
    finally:
        os.close(descriptor)


def _mount_new(overlay: Overlay, target: Path, name: Callable[[Path], str], *, nosuid_nodev: bool) -> None:
    try:
        context = syscalls.FilesystemContext("overlay")
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise _NoLowerDirPlusError from error
        raise
    with context:
        try:
            _configure(context, overlay, name)
            attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV if nosuid_nodev else 0
            attributes |= syscalls.MOUNT_ATTR_RDONLY if overlay.upper is None else 0
            context.attach(str(target), attributes)
        except OSError as error:
            error.add_note(context.messages())
            raise


def _configure(context: syscalls.FilesystemContext, overlay: Overlay, name: Callable[[Path], str]) -> None:
    context.set_string("source", overlay.source)
    for key, value in _OPTIONS.items():
        context.set_string(key, value)
    if overlay.userxattr:
        context.set_flag("userxattr")
    for lower in reversed(overlay.lowers):
        try:
            context.set_string("lowerdir+", name(lower))
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise _NoLowerDirPlusError from error
            raise
    if overlay.upper is not None and overlay.work is not None:
        context.set_string("upperdir", name(overlay.upper))
        context.set_string("workdir", name(overlay.work))
    if overlay.is_volatile:
        with contextlib.suppress(OSError):  # before Linux 5.10
            context.set_flag("volatile")


def _mount_old(
    overlay: Overlay,
    target: Path,
    name: Callable[[Path], str],
    *,
    nosuid_nodev: bool,
    short_name: Callable[[Path], Path] | None,
) -> None:
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV if nosuid_nodev else 0
    flags |= syscalls.MS_RDONLY if overlay.upper is None else 0
    data = _option_page(overlay, [name(lower) for lower in overlay.lowers], name)
    if len(os.fsencode(data)) <= _OPTION_PAGE or short_name is None:
        syscalls.mount(overlay.source, str(target), "overlay", flags, data)
        return
    links = [short_name(lower) for lower in overlay.lowers]
    descriptor = os.open(links[0].parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        data = _option_page(overlay, [f"/proc/self/fd/{descriptor}/{link.name}" for link in links], name)
        if len(os.fsencode(data)) > _OPTION_PAGE:  # the kernel would cut it off without a word
            raise OSError(errno.E2BIG, f"its {len(links)} layers do not fit into one page of options")
        syscalls.mount(overlay.source, str(target), "overlay", flags, data)
    finally:
        os.close(descriptor)


def _option_page(overlay: Overlay, lowers: Sequence[str], name: Callable[[Path], str]) -> str:
    options = [f"{key}={value}" for key, value in _OPTIONS.items()]
    options += ["userxattr"] if overlay.userxattr else []
    options.append("lowerdir=" + ":".join(reversed(lowers)))
    if overlay.upper is not None and overlay.work is not None:
        options += [f"upperdir={name(overlay.upper)}", f"workdir={name(overlay.work)}"]
    return ",".join(options)
