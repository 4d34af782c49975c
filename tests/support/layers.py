"""Layers made in memory: tar entries as plain values, in every compression that registries hold.

They are written here and not with the package's own constants, so that a wrong media type there does not go unseen.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from micropod_img.digest import Digest, hex_of, sha256_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression: TypeAlias = Literal["gzip", "gzip-members", "estargz", "zstd", "zstd-chunked", "none"]

MIB = 1 << 20

_TAR_END = bytes(2 * tarfile.BLOCKSIZE)
_ZSTD_SKIPPABLE = 0x184D2A50


@dataclass(frozen=True)
class Blob:
    """Bytes that a registry holds under their digest."""

    media_type: str
    content: bytes = field(repr=False)

    @cached_property
    def digest(self) -> Digest:
        return sha256_of(self.content)

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def descriptor(self) -> dict[str, object]:
        """What a document above says of this blob."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Layer(Blob):
    """A layer; one with ``urls`` is a foreign layer, which registries need not hold."""

    diff_id: Digest
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> dict[str, object]:
        extra: dict[str, object] = {}
        if self.urls:
            extra["urls"] = list(self.urls)
        if self.annotations:
            extra["annotations"] = dict(self.annotations)
        return super().descriptor | extra


@dataclass(frozen=True)
class Entry:
    """One entry of a layer's tar, as odd as a test wants it; the functions below make the usual ones."""

    name: str
    content: bytes = field(default=b"", repr=False)
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    target: str = ""
    uid: int = 0
    gid: int = 0
    mtime: int = 1_700_000_000
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        """Header and padded content, as they stand in a tar."""
        info = tarfile.TarInfo(self.name)
        info.size, info.type, info.mode, info.linkname = len(self.content), self.kind, self.mode, self.target
        info.uid, info.gid, info.mtime, info.pax_headers = self.uid, self.gid, self.mtime, dict(self.pax)
        info.devmajor, info.devminor = self.device
        padding = bytes(-len(self.content) % tarfile.BLOCKSIZE)
        return info.tobuf(tarfile.PAX_FORMAT) + self.content + padding


def directory(name: str, *, mode: int = 0o755) -> Entry:
    return Entry(name, kind=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, mode=0o777, target=target)


def hardlink(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.LNKTYPE, target=target)


def whiteout(name: str) -> Entry:
    """Remove a path of the layers below (image-spec layer.md, "Whiteouts")."""
    parent, _, base = name.rpartition("/")
    return Entry(f"{parent}/.wh.{base}" if parent else f".wh.{base}")


def layer(
    entries: Mapping[str, bytes] | Sequence[Entry],
    *,
    compression: Compression = "gzip",
    docker: bool = False,
    urls: Sequence[str] = (),
    level: int = 6,
) -> Layer:
    """Make a layer of tar entries, or of paths and contents.

    Args:
        entries: What is in it, in this order.
        compression: How it is stored.
        docker: Docker's media types, not OCI's.
        urls: Makes it a foreign layer, to be had from there.
        level: Of gzip: 0 stores, 9 is slowest.
    """
    given = [Entry(*pair) for pair in entries.items()] if isinstance(entries, Mapping) else entries
    parts = [entry.raw for entry in given]
    annotations: dict[str, str] = {}
    tar = b"".join([*parts, _TAR_END])
    match compression:
        case "none":
            content = tar
        case "gzip":
            content = _gzip(tar, level)
        case "gzip-members":
            content = b"".join(_gzip(part, level) for part in [*parts, _TAR_END])
        case "estargz":
            content, tar, annotations = _estargz(given, level)
        case "zstd":
            content = zstd.compress(tar)
        case "zstd-chunked":
            content, annotations = _zstd_chunked(given)
    return Layer(
        media_type=layer_media_type(compression, docker=docker, foreign=bool(urls)),
        content=content,
        diff_id=sha256_of(tar),
        urls=tuple(urls),
        annotations=annotations,
    )


def random_layer(size: int, *, seed: int = 0, docker: bool = False) -> Layer:
    """Make a layer of ``size`` bytes of content that does not compress, the same for the same seed."""
    content = hashlib.shake_128(b"layer %d" % seed).digest(size)
    return layer({f"random-{seed}": content}, docker=docker, level=0)


def layer_media_type(compression: Compression, *, docker: bool = False, foreign: bool = False) -> str:
    suffix = {"none": "", "zstd": "zstd", "zstd-chunked": "zstd"}.get(compression, "gzip")
    if docker:
        kind = "rootfs.foreign.diff" if foreign else "rootfs.diff"
        return f"application/vnd.docker.image.{kind}.tar" + (f".{suffix}" if suffix else "")
    kind = "layer.nondistributable" if foreign else "layer"
    return f"application/vnd.oci.image.{kind}.v1.tar" + (f"+{suffix}" if suffix else "")


def _gzip(content: bytes, level: int) -> bytes:
    return gzip.compress(content, level, mtime=0)


def _estargz(entries: Sequence[Entry], level: int) -> tuple[bytes, bytes, dict[str, str]]:
    """Follow stargz-snapshotter's docs/estargz.md: a member for each entry, then the TOC's, then a footer."""
    parts = [entry.raw for entry in entries]
    members = [_gzip(part, level) for part in parts]
    offset = sum(map(len, members))
    toc = _toc(entries, [len(member) for member in members])
    end = Entry("stargz.index.json", toc).raw + _TAR_END
    subfield = b"%016xSTARGZ" % offset
    extra = b"SG" + struct.pack("<H", len(subfield)) + subfield
    # A gzip member that holds nothing: header with the extra field, one empty stored block, CRC and length of nothing.
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra + b"\x01\0\0\xff\xff" + bytes(8)
    annotations: dict[str, str] = {"containerd.io/snapshot/stargz/toc.digest": sha256_of(toc)}
    return b"".join([*members, _gzip(end, level), footer]), b"".join([*parts, end]), annotations


def _zstd_chunked(entries: Sequence[Entry]) -> tuple[bytes, dict[str, str]]:
    """Follow containers/storage pkg/chunked: a frame for each entry, then TOC and footer in skippable frames."""
    frames = [zstd.compress(part) for part in [*(entry.raw for entry in entries), _TAR_END]]
    offset = sum(map(len, frames))
    toc = _toc(entries, [len(frame) for frame in frames])
    packed = zstd.compress(toc)
    position = (offset + 8, len(packed), len(toc), 1)
    footer = struct.pack("<7Q8s", *position, 0, 0, 0, b"GNUlInUx")
    skippable = b"".join(struct.pack("<II", _ZSTD_SKIPPABLE, len(part)) + part for part in (packed, footer))
    prefix = "io.github.containers.zstd-chunked.manifest-"
    return b"".join(frames) + skippable, {
        prefix + "checksum": sha256_of(packed),
        prefix + "position": ":".join(map(str, position)),
    }


def _toc(entries: Sequence[Entry], lengths: Sequence[int]) -> bytes:
    listed: list[dict[str, object]] = []
    offset = 0
    for entry, length in zip(entries, lengths, strict=False):
        kind = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink"}.get(entry.kind, "reg")
        listed.append({"name": entry.name, "type": kind, "size": len(entry.content), "offset": offset})
        if entry.content:
            listed[-1]["digest"] = f"sha256:{hex_of(sha256_of(entry.content))}"
        offset += length
    return json.dumps({"version": 1, "entries": listed}).encode()
