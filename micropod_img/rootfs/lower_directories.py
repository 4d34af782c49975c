"""Directories that a container's image brought along: where they are seen through an overlay nobody can rename them.

The kernel answers EXDEV, as for a mount in between (kernel documentation, filesystems/overlayfs.rst, "redirect_dir").
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from micropod_img.rootfs.mountinfo import mount_of

if TYPE_CHECKING:
    from pathlib import Path


def rename_unless_lower(source: Path, target: Path) -> bool:
    """Rename a directory; return whether that was done, and it is no such one.

    Raises:
        OSError: It cannot be renamed for another reason.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno == errno.EXDEV and mount_of(source).kind == "overlay":
            return False
        raise
    return True
