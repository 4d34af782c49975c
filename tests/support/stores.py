"""A store on disk, read without the package's own code: what is in it, and whether it keeps its promises."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

REF_NAME = "org.opencontainers.image.ref.name"
REFERENCE = "io.micropod.reference"


def blob_path(root: Path, digest: str) -> Path:
    return root / "images" / "blobs" / "sha256" / digest.removeprefix("sha256:")


def blobs(root: Path) -> set[str]:
    """Return the digest of every blob file."""
    return {f"sha256:{path.name}" for path in (root / "images" / "blobs" / "sha256").iterdir()}


def inodes(root: Path) -> dict[str, int]:
    """Return the inode of every blob: a blob that keeps its own was not written again."""
    # As the directory has it: others may take blobs away meanwhile.
    with os.scandir(root / "images" / "blobs" / "sha256") as entries:
        return {f"sha256:{entry.name}": entry.inode() for entry in entries}


def entries(root: Path) -> list[dict[str, Json]]:
    """Return the descriptors of ``index.json``."""
    listed = _object(json.loads((root / "images" / "index.json").read_bytes()))["manifests"]
    assert isinstance(listed, list)
    return [_object(one) for one in listed]


def listed(root: Path) -> list[tuple[str, str]]:
    """Return reference and digest of every descriptor in ``index.json``."""
    return [(annotation(entry, REFERENCE), str(entry["digest"])) for entry in entries(root)]


def annotation(entry: dict[str, Json], key: str) -> str:
    return str(_object(entry.get("annotations") or {}).get(key) or "")


def problems(root: Path) -> list[str]:
    """Return which promises of a store that nobody uses just now are broken; none if all is well.

    Every blob is what its name says; every image that is listed is there whole; every reference has just one
    ``ref.name``; and nothing is left of work in progress.
    """
    return [*broken(root), *leftovers(root)] if (root / "version").exists() else []


def broken(root: Path) -> list[str]:
    """Return which promises are broken of a store that may be in use: as `problems`, but for what is left of work."""
    return [*_wrong_blobs(root), *_incomplete_images(root), *_wrong_names(root)]


def _wrong_blobs(root: Path) -> Iterator[str]:
    for path in (root / "images" / "blobs" / "sha256").iterdir():
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != path.name:
                yield f"blob {path.name} has other bytes"
        if path.stat().st_mode & 0o777 != 0o644:
            yield f"blob {path.name} has mode {path.stat().st_mode:o}"


def _incomplete_images(root: Path) -> Iterator[str]:
    for entry in entries(root):
        for descriptor in (entry, *_below(root, entry)):
            path = blob_path(root, str(descriptor["digest"]))
            if not path.exists():
                yield f"{annotation(entry, REFERENCE)} needs {descriptor['digest']}, which is missing"
            elif path.stat().st_size != descriptor["size"]:
                yield f"{annotation(entry, REFERENCE)} needs {descriptor['digest']}, which has another size"


def _below(root: Path, descriptor: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield every descriptor that a document of the store leads to."""
    path = blob_path(root, str(descriptor["digest"]))
    if not path.exists() or "json" not in str(descriptor.get("mediaType")):
        return
    document = _object(json.loads(path.read_bytes()))
    for key in ("manifests", "layers"):
        below = document.get(key) or []
        assert isinstance(below, list)
        for one in below:
            yield _object(one)
            if key == "manifests":
                yield from _below(root, _object(one))
    if "config" in document and ("layers" in document):
        yield _object(document["config"])


def _wrong_names(root: Path) -> Iterator[str]:
    named = Counter(annotation(entry, REF_NAME) for entry in entries(root))
    for reference in {annotation(entry, REFERENCE) for entry in entries(root)} - {""}:
        if named[reference] != 1:
            yield f"{reference} is the ref.name of {named[reference]} descriptors"
    keys = [
        (annotation(entry, REFERENCE), json.dumps(entry.get("platform"), sort_keys=True)) for entry in entries(root)
    ]
    for key, number in Counter(keys).items():
        if number > 1 and key[0]:
            yield f"{key} is listed {number} times"


def leftovers(root: Path) -> list[str]:
    """Return what is left of work in progress."""
    return [f"{path} is left" for directory in (root / "tmp", root / "locks") for path in directory.iterdir()]


def _object(value: Json) -> dict[str, Json]:
    assert isinstance(value, dict)
    return value
