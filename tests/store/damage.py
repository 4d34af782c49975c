"""Ways to damage a store, as disks, people and other programs do."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, TypeAlias

from tests.support import stores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.layers import Blob

Damage: TypeAlias = "Callable[[Path], None]"
OfABlob: TypeAlias = "Callable[[Blob], Damage]"


def blob(root: Path, what: Blob) -> Path:
    return stores.blob_path(root, what.digest)


def emptied(what: Blob) -> Damage:
    return lambda root: os.truncate(blob(root, what), 0)


def cut_short(what: Blob) -> Damage:
    return lambda root: os.truncate(blob(root, what), what.size // 2)


def flipped(what: Blob) -> Damage:
    """Change one bit in the middle; the size stays."""

    def damage(root: Path) -> None:
        with blob(root, what).open("r+b") as stream:
            stream.seek(what.size // 2)
            byte = stream.read(1)
            stream.seek(what.size // 2)
            stream.write(bytes([byte[0] ^ 1]))

    return damage


def removed(what: Blob) -> Damage:
    return lambda root: blob(root, what).unlink()


def made_a_directory(what: Blob) -> Damage:
    def damage(root: Path) -> None:
        blob(root, what).unlink()
        blob(root, what).mkdir()

    return damage


def made_a_link(what: Blob) -> Damage:
    """Let a link to the very same bytes stand in a blob's place."""

    def damage(root: Path) -> None:
        elsewhere = root.parent / "elsewhere"
        blob(root, what).rename(elsewhere)
        blob(root, what).symlink_to(elsewhere)

    return damage


def made_a_fifo(what: Blob) -> Damage:
    def damage(root: Path) -> None:
        blob(root, what).unlink()
        os.mkfifo(blob(root, what))

    return damage


def with_mode(what: Blob, mode: int) -> Damage:
    return lambda root: blob(root, what).chmod(mode)


def index_is(content: bytes) -> Damage:
    def damage(root: Path) -> None:
        index(root).write_bytes(content)

    return damage


def index_cut_to(part: float) -> Damage:
    return lambda root: os.truncate(index(root), int(index(root).stat().st_size * part))


def entry_changed(number: int = 0, **members: object) -> Damage:
    """Change members of an entry; None takes one away."""

    def damage(root: Path) -> None:
        document = json.loads(index(root).read_bytes())
        entry = document["manifests"][number] | members
        document["manifests"][number] = {key: value for key, value in entry.items() if value is not None}
        index(root).write_text(json.dumps(document))

    return damage


def entry_annotated(number: int = 0, **annotations: str | None) -> Damage:
    """Change annotations of an entry; ``__`` stands for a dot, ``_`` for a hyphen, None takes one away."""

    def damage(root: Path) -> None:
        document = json.loads(index(root).read_bytes())
        known = document["manifests"][number]["annotations"]
        for key, value in annotations.items():
            name = key.replace("__", ".").replace("_", "-")
            known[name] = value
            if value is None:
                del known[name]
        index(root).write_text(json.dumps(document))

    return damage


def entry_repeated(number: int = 0, **members: object) -> Damage:
    """List an entry once more at the end, maybe with other members."""

    def damage(root: Path) -> None:
        document = json.loads(index(root).read_bytes())
        document["manifests"].append(document["manifests"][number] | members)
        index(root).write_text(json.dumps(document))

    return damage


def entry_added(entry: object) -> Damage:
    def damage(root: Path) -> None:
        document = json.loads(index(root).read_bytes())
        document["manifests"].append(entry)
        index(root).write_text(json.dumps(document))

    return damage


def index(root: Path) -> Path:
    return root / "images" / "index.json"
