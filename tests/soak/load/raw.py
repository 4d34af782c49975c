"""The store as it lies on the disk at one moment, read without the package's own code, and what is wrong with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from tests.support import stores
from tests.support.stores import Json, annotation, blob_path

if TYPE_CHECKING:
    from pathlib import Path

_Look: TypeAlias = Callable[["dict[str, Json]"], Iterator[str]]


def references(root: Path) -> set[str]:
    """Return what the index lists just now."""
    return {annotation(entry, stores.REFERENCE) for entry in stores.entries(root)}


class Checker:
    """Looks again and again whether all that is needed is there.

    What is missing counts only if the file that needs it is the same file still; while it is open, no other file can
    have its inode number.

    Args:
        root: The store's directory.
        kept: A reference that must always be listed.
    """

    def __init__(self, root: Path, kept: str) -> None:
        self._root = root
        self._kept = kept
        self._contents: dict[str, tuple[int, bytes]] = {}
        self.looks = 0

    def look(self) -> Iterator[str]:
        """Yield what is missing or wrong."""
        self.looks += 1
        yield from _needed_by(self._root / "images/index.json", self._missing_blobs)
        with contextlib.suppress(FileNotFoundError):
            for pod in (self._root / "pods").iterdir():
                yield from _needed_by(pod / "pod.json", self._missing_snapshots)

    def _missing_blobs(self, index: dict[str, Json]) -> Iterator[str]:
        entries = list(_descriptors(index))
        if self._kept not in {annotation(entry, stores.REFERENCE) for entry in entries}:
            yield f"{self._kept} is not listed any more"
        for entry in entries:
            for problem in self._wrong(entry):
                yield f"{annotation(entry, stores.REFERENCE)}: {problem}"

    def _wrong(self, descriptor: dict[str, Json]) -> Iterator[str]:
        digest = str(descriptor["digest"])
        try:
            content = self._content(digest)
        except FileNotFoundError:
            yield f"{digest} is missing"
            return
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            yield f"{digest} has other bytes"
        elif "json" in str(descriptor.get("mediaType")):
            document = json.loads(content)
            for below in _descriptors(document):
                yield from self._wrong(below)

    def _content(self, digest: str) -> bytes:
        """Return the bytes of a blob, which are read once for each inode."""
        path = blob_path(self._root, digest)
        inode = path.stat().st_ino
        known = self._contents.get(digest)
        if known is None or known[0] != inode:
            known = self._contents[digest] = (inode, path.read_bytes())
        return known[1]

    def _missing_snapshots(self, pod: dict[str, Json]) -> Iterator[str]:
        chain = pod["chain_ids"]
        assert isinstance(chain, list)
        for one in chain:
            if not (self._root / "snapshots" / str(one).removeprefix("sha256:") / "fs").is_dir():
                yield f"pod {pod['id']}: snapshot {one} is missing"


def _needed_by(path: Path, look: _Look) -> Iterator[str]:
    try:
        stream = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with stream:
        opened = os.fstat(stream.fileno())
        missing = list(look(json.loads(stream.read())))
        if missing and _is_named(path, opened):
            yield from missing


def _is_named(path: Path, opened: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), opened)
    except FileNotFoundError:
        return False


def _descriptors(document: dict[str, Json]) -> Iterator[dict[str, Json]]:
    for key in ("manifests", "layers"):
        listed = document.get(key) or []
        assert isinstance(listed, list)
        yield from (one for one in listed if isinstance(one, dict))
    config = document.get("config")
    if isinstance(config, dict) and "digest" in config:
        yield config
