"""The metadata of a directory that is the root of a tree: an overlay shows that of its topmost layer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_OVERLAYS_OWN = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")


def make_root(directory: Path, like: Path | None) -> None:
    """Make the directory that becomes the root of a tree.

    Args:
        directory: Its path.
        like: A directory whose metadata it gets; without one it is root's, and 0755.
    """
    directory.mkdir()
    if like is None:
        directory.chmod(0o755)
    else:
        copy_metadata(like, directory)


def copy_metadata(source: Path, target: Path) -> None:
    """Give a directory the owner, mode, times and attributes of another one."""
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)
    wanted = {name: os.getxattr(source, name) for name in _own_attributes(source)}
    for name in _own_attributes(target):
        if name not in wanted:
            os.removexattr(target, name)
    for name, value in wanted.items():
        os.setxattr(target, name, value)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _own_attributes(directory: Path) -> list[str]:
    return [name for name in os.listxattr(directory) if not name.startswith(_OVERLAYS_OWN)]
