"""Archives made byte by byte, as no honest writer makes them, and trees of files as plain values."""

from __future__ import annotations

import gzip
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img.digest import Digest, sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR, GNU, V7 = b"ustar\x0000", b"ustar  \0", bytes(8)
GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

_FIELDS = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12s")


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def base256(number: int, width: int) -> bytes:
    """A number in GNU's binary form."""
    return bytes([0xFF if number < 0 else 0x80]) + number.to_bytes(width, "big", signed=True)[1:]


def header(
    name: bytes = b"file",
    kind: bytes = b"0",
    *,
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 0,
    checksum: bytes | None = None,
    link: bytes = b"",
    magic: bytes = USTAR,
    major: int | bytes = 0,
    minor: int | bytes = 0,
    prefix: bytes = b"",
    rest: bytes = b"",
) -> bytes:
    """One header; numbers are written in octal, bytes as they are."""

    def field(value: int | bytes, width: int) -> bytes:
        return octal(value, width) if isinstance(value, int) else value

    def packed(total: bytes) -> bytes:
        return _FIELDS.pack(
            name,
            field(mode, 8),
            field(uid, 8),
            field(gid, 8),
            field(size, 12),
            field(mtime, 12),
            total,
            kind,
            link,
            magic,
            b"",
            b"",
            field(major, 8) if magic != V7 or isinstance(major, bytes) else b"",
            field(minor, 8) if magic != V7 or isinstance(minor, bytes) else b"",
            prefix,
            rest,
        )

    if checksum is None:
        checksum = b"%06o\0 " % sum(packed(b" " * 8))
    return packed(checksum)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def file(name: bytes = b"file", content: bytes = b"", **fields: int | bytes) -> bytes:
    return header(name, size=len(content), **fields) + padded(content)  # type: ignore[arg-type]  # checksum is never given


def extended(records: Mapping[bytes, bytes] | bytes) -> bytes:
    """An extended header: records, or bytes as they are."""
    content = records if isinstance(records, bytes) else b"".join(record(*pair) for pair in records.items())
    return header(b"PaxHeaders/file", b"x", size=len(content)) + padded(content)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, key, value)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    return header(b"././@LongLink", kind, size=len(name), magic=GNU) + padded(name)


@dataclass(frozen=True)
class StoredLayer:
    """A layer as the store has it."""

    content: bytes
    diff_id: Digest

    @property
    def digest(self) -> Digest:
        return sha256_of(self.content)


def stored(archive: bytes) -> StoredLayer:
    """Compress an archive."""
    return StoredLayer(gzip.compress(archive, 1, mtime=0), sha256_of(archive))


@dataclass(frozen=True)
class Node:
    """What a path of a tree is; link counts of directories do not matter."""

    kind: str
    mode: int
    owner: tuple[int, int] = (0, 0)
    content: bytes = b""
    mtime_ns: int | None = None
    device: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    links: int = 1


NOTHING = Node("listed, and not there", 0)

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
}


def tree(root: Path) -> dict[bytes, Node]:
    """All that is below a directory, by path; links are not followed."""
    found: dict[bytes, Node] = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        for name in directories + files:
            path = os.path.join(directory, name)  # noqa: PTH118 - pathlib knows no bytes
            found[os.path.relpath(path, os.fsencode(root))] = _node(path)
    return found


def hard_links(root: Path) -> set[frozenset[bytes]]:
    """The names that each file with several has below a directory."""
    names: dict[tuple[int, int], set[bytes]] = {}
    for path, node in tree(root).items():
        if node.links > 1:
            status = os.lstat(os.path.join(os.fsencode(root), path))  # noqa: PTH118 - pathlib knows no bytes
            names.setdefault((status.st_dev, status.st_ino), set()).add(path)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def _node(path: bytes) -> Node:
    try:
        status = os.lstat(path)
    except FileNotFoundError:  # an overlay lists whiteouts where no layer below has that directory
        return NOTHING
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    content = b""
    if kind == "file":
        with open(path, "rb") as stream:  # noqa: PTH123 - the same
            content = stream.read()
    elif kind == "symlink":
        content = os.readlink(path)  # noqa: PTH115 - the same
    return Node(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        content=content,
        mtime_ns=status.st_mtime_ns,
        device=status.st_rdev,
        xattrs=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(_xattrs(path))),
        links=1 if kind == "directory" else status.st_nlink,
    )


def _xattrs(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)
