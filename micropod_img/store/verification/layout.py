"""What is wrong with the files of a store that are no blobs: its version, its marks, modes, and what is not its own."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING

from micropod_img.problems import Problem
from micropod_img.store.blobs import is_hex
from micropod_img.store.layout import FORMAT, OURS
from micropod_img.store.open_files import is_open

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from micropod_img.store.layout import StoreLayout
    from micropod_img.store.verification.blobs import BlobVerification

_OF_A_FILESYSTEM = frozenset({"lost+found"})
_OF_A_LAYOUT = frozenset({"oci-layout", "index.json", "blobs"})
_LAYOUT_VERSION = "1.0.0"


def layout_problems(layout: StoreLayout, blobs: BlobVerification) -> Iterator[Problem]:
    """Yield what is wrong with the files of a store.

    Args:
        layout: Its paths.
        blobs: Its blobs, listed.
    """
    if not layout.is_begun():
        return
    yield from _version_problems(layout)
    yield from _mark_problems(layout)
    yield from _foreign_files(layout.root, OURS | _OF_A_FILESYSTEM)
    yield from _foreign_files(layout.images, _OF_A_LAYOUT)
    yield from _misnamed_blobs(layout)
    yield from _directory_problems(layout)
    yield from _blob_file_problems(layout, blobs)


def leftovers(layout: StoreLayout) -> int:
    """Return how many staging places nobody holds any more."""
    count = 0
    with contextlib.suppress(FileNotFoundError):
        for path in layout.staging.iterdir():
            count += not is_open(path)
    return count


def _version_problems(layout: StoreLayout) -> Iterator[Problem]:
    with contextlib.suppress(FileNotFoundError):
        text = layout.version.read_text("ascii", "replace")
        if text != f"{FORMAT}\n":
            what = f"{layout.version} does not name a store format: {text[:40]!r}"
            yield Problem("corrupt-version", what, str(layout.version))


def _mark_problems(layout: StoreLayout) -> Iterator[Problem]:
    """Look at ``oci-layout`` (image-spec, image-layout.md), without which other tools refuse the layout."""
    path = layout.images / "oci-layout"
    if not layout.images.is_dir():
        return
    try:
        version = json.loads(path.read_bytes())["imageLayoutVersion"]
    except FileNotFoundError:
        if layout.index.exists() or layout.version.exists():  # or the store is just being made, or was when all ended
            yield Problem("corrupt-layout", f"{path} is missing, and other tools refuse the layout", str(path))
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        yield Problem("corrupt-layout", f"{path} is not what marks a layout", str(path))
    else:
        if version != _LAYOUT_VERSION:
            yield Problem("corrupt-layout", f"{path} names version {version!r:.40}", str(path))


def _foreign_files(directory: Path, known: frozenset[str]) -> Iterator[Problem]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in directory.iterdir():
            if path.name not in known and not is_open(path):
                yield Problem("foreign-file", f"{path} is not of a store", str(path))


def _misnamed_blobs(layout: StoreLayout) -> Iterator[Problem]:
    """Yield files among the blobs that have no digest's name, such as those that a killed crane was writing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in layout.blobs.iterdir():
            if not is_hex(path.name) and not is_open(path):
                yield Problem("misnamed-blob", f"{path} has no digest as its name, and nothing can need it", str(path))


def _directory_problems(layout: StoreLayout) -> Iterator[Problem]:
    for path in (layout.root, layout.images, layout.blobs, layout.snapshots, layout.pods, layout.staging, layout.locks):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield Problem("foreign-file", f"{path} is not a directory", str(path))
        elif status.st_uid != os.geteuid():
            yield Problem("wrong-owner", f"{path} belongs to user {status.st_uid}", str(path))
        elif path == layout.root and not layout.version.exists():
            continue  # made private by the first command that writes
        elif status.st_mode & (0o077 if path == layout.root else 0o022):
            others = "open to other users" if path == layout.root else "writable by other users"
            yield Problem("wrong-mode", f"{path} has mode {status.st_mode & 0o7777:04o}: it is {others}", str(path))


def _blob_file_problems(layout: StoreLayout, blobs: BlobVerification) -> Iterator[Problem]:
    for digest, file in blobs.files.items():
        path = str(layout.blob(digest))
        if not stat.S_ISREG(file.mode):
            continue
        if file.owner != os.geteuid():
            yield Problem("wrong-owner", f"blob {digest} belongs to user {file.owner}", path, digest)
        mode = file.mode & 0o7777
        # crane makes some of them executable, which harms nobody.
        if mode & 0o7022 or not mode & 0o400:
            yield Problem("wrong-mode", f"blob {digest} has mode {mode:04o} and not 0644", path, digest)
