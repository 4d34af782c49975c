"""Archives that the gate let pass, as other readers see them: all must see the same entries."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import tarfile
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from micropod_img.digest import sha256_of
from micropod_img.rootfs import tar_headers
from micropod_img.rootfs.layer_stream import BLOCK, Compression, LayerStream, compression_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB = 1 << 20
_LINKS = (tar_headers.HARD_LINK, tar_headers.SYMLINK)
_DEVICES = (tar_headers.CHARACTER_DEVICE, tar_headers.BLOCK_DEVICE)


class Seen(NamedTuple):
    """What counts of an entry."""

    name: bytes
    kind: bytes
    size: int
    link: bytes
    device: tuple[int, int]


def same_as_others(archive: bytes) -> None:
    """Raise `AssertionError` if Python or Go read an archive in another way than the gate.

    Args:
        archive: One that the gate let pass, as it is stored; a compressed one is left alone.
    """
    if compression_of(archive[:4]) is not Compression.NONE:
        return
    entries = list(_read(archive))
    ours = [
        Seen(
            one.name,
            one.kind,
            one.size,
            one.link_name if one.kind in _LINKS else b"",
            one.device if one.kind in _DEVICES else (0, 0),
        )
        for one in entries
    ]
    has_holes = any(key.startswith(b"GNU.sparse.") for one in entries for key in one.records)
    if "TAR_ENTRIES" in os.environ:
        _same_as_go(archive, ours, has_holes=has_holes)
    if archive and not has_holes and not _has_times_in_the_place_of_a_prefix(archive):
        try:
            pythons = list(_python(archive))
        except tarfile.ReadError:  # whoever refuses an archive does not read it in another way
            return
        # At a header that it does not understand tarfile ends, as if the archive did.
        expected = [one._replace(name=_plain(one.name)) for one in ours]
        assert pythons == expected[: len(pythons)], (pythons, ours)


def _read(archive: bytes) -> Iterator[tar_headers.Entry]:
    stream = LayerStream(
        io.BytesIO(archive), digest=sha256_of(archive), max_size=64 * MIB, max_ratio=1000, ratio_floor=64 * MIB
    )
    return tar_headers.read_entries(stream)


def _same_as_go(archive: bytes, ours: Sequence[Seen], *, has_holes: bool) -> None:
    program = _go()
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(struct.pack(">I", len(archive)) + archive)
    program.stdin.flush()
    said = json.loads(program.stdout.readline())
    theirs = [
        Seen(
            bytes.fromhex(one["name"]),
            one["kind"].encode(),
            one["size"],
            bytes.fromhex(one["link"]) if one["kind"].encode() in _LINKS else b"",
            (one["major"], one["minor"]) if one["kind"].encode() in _DEVICES else (0, 0),
        )
        for one in said["entries"]
    ]
    if said["error"]:
        # The table of a sparse file lies in its content, which the gate passes: Go may refuse it, and umoci then fails.
        assert has_holes, said["error"]
        ours = ours[: len(theirs)]
    assert theirs == list(ours), (theirs, ours)


@cache
def _go() -> subprocess.Popen[bytes]:
    return subprocess.Popen([os.environ["TAR_ENTRIES"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _has_times_in_the_place_of_a_prefix(archive: bytes) -> bool:
    """Whether there may be a header of the GNU or V7 format with something where Python always sees a prefix."""
    return any(
        archive[start + 257 : start + 263] != b"ustar\0" and any(archive[start + 345 : start + 500])
        for start in range(0, len(archive), BLOCK)
    )


def _python(archive: bytes) -> Iterator[Seen]:
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8", errors="surrogateescape") as opened:
        for one in opened:
            yield Seen(
                _plain(one.name.encode("utf-8", "surrogateescape")),
                tar_headers.REGULAR if one.type == tarfile.AREGTYPE else one.type,
                one.size,
                one.linkname.encode("utf-8", "surrogateescape") if one.issym() or one.islnk() else b"",
                (one.devmajor, one.devminor) if one.isdev() and not one.isfifo() else (0, 0),
            )


def _plain(name: bytes) -> bytes:
    """Leave out the slashes behind a directory's name, as Python does."""
    return name.rstrip(b"/")
