"""Whether the files of a layer that was unpacked apart are those of a snapshot, and what they lack for that.

Where a layer only adds files and replaces whole ones, it does not matter to an overlay whether it was applied over
its parents or in an empty directory. It does where the layer takes something away or changes its mind (`footprint`),
where a directory of its is something else below, such as a link that its files go through, and for the metadata of
directories that it does not list.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from micropod_img.rootfs.drivers.metadata import copy_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from micropod_img.rootfs.gated import Passed

_DEFAULT_RIGHTS: Final = "system.posix_acl_default"


def join(files: Path, below: Path, layer: Passed) -> bool:
    """Make the files of a layer those of a snapshot, if they can be.

    Args:
        files: They, unpacked in an empty directory.
        below: The files of the snapshot below.
        layer: What the gate saw of the layer.

    Returns:
        Whether they can; if not, nothing was changed, and the layer must be applied over its parents.
    """
    if layer.footprint is None or layer.footprint.needs_parents:
        return False
    try:
        inherited = _inherited(os.fsencode(files), os.fsencode(below), layer.footprint.directories)
    except OSError:  # a path that is too long, for example: who unpacks over the parents needs none as long
        return False
    if inherited is None:
        return False
    for directory in inherited:
        name = os.fsdecode(directory)
        copy_metadata(below / name, files / name)
    if not layer.report.has_root:
        copy_metadata(below, files)
    return True


def _inherited(files: bytes, below: bytes, listed: AbstractSet[bytes]) -> list[bytes] | None:
    """Return the directories that get their metadata from below; None where files were to be looked for below."""
    # What a directory passes on to those that are made in it, and umoci leaves at that where they are not listed.
    passes_on = {b"": _passes_on(below)}
    inherited = []
    for directory in _directories(files):
        under = below + b"/" + directory
        parent = directory.rpartition(b"/")[0]
        try:
            is_directory = stat.S_ISDIR(os.lstat(under).st_mode)
        except FileNotFoundError:
            if passes_on[parent] and directory not in listed:
                return None
            passes_on[directory] = passes_on[parent]
            continue
        if not is_directory:
            return None
        passes_on[directory] = _passes_on(under)
        if directory not in listed:
            inherited.append(directory)
    return inherited if listed <= passes_on.keys() else None  # else one was reached through a link


def _passes_on(directory: bytes) -> bool:
    """Whether what is made in a directory gets a group or a list of rights from it (mkdir(2), acl(5))."""
    return bool(os.lstat(directory).st_mode & stat.S_ISGID) or _DEFAULT_RIGHTS in os.listxattr(directory)


def _directories(top: bytes) -> Iterator[bytes]:
    """Find all directories below one, each after its own; no link is followed."""
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        with os.scandir(top + b"/" + directory) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            path = directory + b"/" + name if directory else name
            yield path
            waiting.append(path)
