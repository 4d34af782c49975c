"""An image with real content: this machine's own files, in three layers."""

from __future__ import annotations

import os
import stat
import sysconfig
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.images import Manifest, image
from tests.support.layers import MIB, Entry, directory, hardlink, layer, symlink, whiteout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Not all of them are everywhere; a slim container has but the first.
_BASE = tuple(
    map(
        Path,
        ("/usr/share/common-licenses", "/etc/services", "/usr/share/zoneinfo", "/usr/share/i18n", "/usr/share/perl"),
    )
)
_PROGRAMS = (Path("/usr/bin"), Path("/usr/lib"))


def real_content_image(*, layer_bytes: int = 20 * MIB, docker: bool = False) -> Manifest:
    """Make an image of time zones and character maps, Python's library, and programs of this machine.

    Args:
        layer_bytes: About how much of it goes into each layer, uncompressed.
        docker: Docker's media types, not OCI's.
    """
    base = list(_files(_BASE, layer_bytes))
    library = list(_files([Path(sysconfig.get_path("stdlib"))], layer_bytes))
    programs = list(_files(_PROGRAMS, layer_bytes))
    removed = next(entry.name for entry in base if entry.kind == tarfile.REGTYPE)
    replaced = next(entry.name for entry in library if entry.kind == tarfile.REGTYPE)
    top = [*programs, whiteout(removed), Entry(replaced, b"replaced by the layer above\n")]
    stacked = [layer(entries, docker=docker, level=1) for entries in (base, library, top)]
    return image(stacked, docker=docker, config={"config": {"Cmd": ["/usr/bin/env"], "Labels": {"content": "real"}}})


def _files(roots: Iterable[Path], limit: int) -> Iterator[Entry]:
    """Read trees in a stable order until the limit in bytes is reached; what may not be read is left out."""
    names: dict[tuple[int, int], str] = {}
    left = limit
    for path in _walk(roots):
        status = path.lstat()
        name = str(path).lstrip("/")
        if stat.S_ISLNK(status.st_mode):
            yield symlink(name, str(path.readlink()))
        elif stat.S_ISDIR(status.st_mode):
            yield directory(name, mode=stat.S_IMODE(status.st_mode))
        elif stat.S_ISREG(status.st_mode) and status.st_size <= left:
            inode = (status.st_dev, status.st_ino)
            if inode in names:
                # As tar writes it: with what is said of the file itself.
                link = hardlink(name, names[inode])
                yield replace(link, mode=stat.S_IMODE(status.st_mode), mtime=int(status.st_mtime))
                continue
            content = path.read_bytes()
            names[inode] = name
            left -= len(content)
            yield Entry(name, content, mode=stat.S_IMODE(status.st_mode), mtime=int(status.st_mtime))
            if left < limit // 100:
                return


def _walk(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if not os.access(root, os.R_OK, follow_symlinks=False):
            continue
        yield root
        if root.is_dir() and not root.is_symlink():
            yield from _walk(sorted(root.iterdir()))
