"""What is mounted, and who uses it, read from /proc (proc_pid_mountinfo(5))."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img.rootfs.quoting import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_OCTAL = re.compile(rb"\\([0-7]{3})")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of mountinfo: where, of what type, from what, and its device number."""

    path: Path
    kind: str
    source: str
    device: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that uses a mount, its name, and what of it is in there."""

    pid: int
    name: str
    use: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name}, its {self.use})"


def parse_mountinfo(content: bytes) -> Iterator[MountPoint]:
    """Yield the mounts that a mountinfo file lists, the oldest first."""
    for line in content.splitlines():
        fields = line.split(b" ")
        path = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
        major, minor = fields[2].split(b":")
        end = fields.index(b"-", 6)
        kind, source = (field.decode("utf-8", "replace") for field in fields[end + 1 : end + 3])
        yield MountPoint(Path(os.fsdecode(path)), kind, source, os.makedev(int(major), int(minor)))


def mount_points(pid: int | None = None) -> dict[Path, MountPoint]:
    """Return what is mounted in a mount namespace; of mounts over one another, the one that is seen.

    Args:
        pid: A process in it; if None this thread.
    """
    content = (_PROC / ("thread-self" if pid is None else str(pid)) / "mountinfo").read_bytes()
    return {mount.path: mount for mount in parse_mountinfo(content)}


def mounted_at(path: Path) -> MountPoint | None:
    """Return what is mounted exactly at a path, or None."""
    return mount_points().get(path.resolve())


def mount_of(path: Path) -> MountPoint:
    """Return the mount that a path is seen through."""
    mounted = mount_points()
    place = path.resolve()
    return next(mounted[one] for one in (place, *place.parents) if one in mounted)


def holders(device: int) -> tuple[Holder, ...]:
    """Return the processes whose root, working directory, program or open files lie on a device, as far as visible.

    A container's processes count, though their mount namespace has another mount of the device.

    Args:
        device: As `MountPoint.device` has it.
    """
    found: list[Holder] = []
    for directory in _PROC.iterdir():
        if directory.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended, or is somebody else's
                use = _use(directory, device)
                if use is not None:
                    name = printable((directory / "comm").read_text("utf-8", "replace").strip())
                    found.append(Holder(int(directory.name), name, use))
    return tuple(sorted(found, key=lambda holder: holder.pid))


def _use(process: Path, device: int) -> str | None:
    links = {"root": "root directory", "cwd": "working directory", "exe": "program"}
    for link, use in links.items():
        with contextlib.suppress(OSError):
            if (process / link).stat().st_dev == device:
                return use
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if descriptor.stat().st_dev == device:
                return "open files"
    return None
