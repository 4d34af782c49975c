"""Layers that want more than to be unpacked, and those that only look so; `OUTSIDE` is a directory of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.rootfs.gate_checks import sparse
from tests.rootfs.tar_layers import GNU, base256, extended, file, header, long_name, padded, record
from tests.support.layers import Entry, directory, hardlink, symlink, whiteout

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTSIDE = "OUTSIDE"


@dataclass(frozen=True)
class Hostile:
    """Layers that are refused.

    Attributes:
        layers: Their parts, bottom to top.
        said: What the error says of the entry.
        status: Its exit status.
    """

    layers: Sequence[Sequence[Entry | bytes]]
    said: str
    status: int = 12


def _xattr(name: bytes) -> bytes:
    return extended({b"SCHILY.xattr." + name: b"y"})


HOSTILE = {
    "a name that leads out": Hostile([[header(b"a/../../escape")]], "entry 'a/../../escape' leads out"),
    "an absolute name that leads out": Hostile([[header(b"/../escape")]], "entry '/../escape' leads out"),
    "a name that leads out in an extended header": Hostile(
        [[extended({b"path": b"../escape"}) + header(b"innocent")]], "entry '../escape' leads out"
    ),
    "a hard link out": Hostile([[header(b"h", b"1", link=b"../../etc/passwd")]], "entry 'h' is a hard link to"),
    "a hard link to itself": Hostile([[header(b"h", b"1", link=b"h")]], "has a hard link to a file that is not", 7),
    "hard links in a circle": Hostile(
        [[header(b"a", b"1", link=b"b"), header(b"b", b"1", link=b"a")]], "has a hard link to a file that is not", 7
    ),
    "a hard link through a symlink to a file of the host": Hostile(
        [[symlink("s", OUTSIDE), hardlink("h", "s/secret")]], "has a hard link to a file that is not there", 7
    ),
    "a hard link to a directory": Hostile([[directory("d"), hardlink("h", "d")]], "has a hard link to what cannot"),
    "symlinks in a circle on the way": Hostile(
        [[symlink("a", "b"), symlink("b", "a"), Entry("a/x")]], "has an entry that cannot be unpacked"
    ),
    "a whiteout of nothing": Hostile([[Entry("fine")], [header(b".wh.")]], "entry '.wh.' is a whiteout of no file"),
    "a whiteout of the root": Hostile([[Entry("fine")], [header(b"/.wh..")]], "entry '/.wh..' is a whiteout of no"),
    "a whiteout of the parent": Hostile([[Entry("fine")], [header(b".wh...")]], "entry '.wh...' is a whiteout of no"),
    "a root that is a symlink": Hostile([[header(b"./", b"2", link=b"/etc")]], "entry './'"),
    "a device that is a whiteout": Hostile([[header(b"dev", b"3")]], "entry 'dev' is a device that the overlay"),
    "an opaque attribute": Hostile(
        [[_xattr(b"trusted.overlay.opaque") + header(b"d", b"5")]], "entry 'd' sets 'trusted.overlay.opaque'"
    ),
    "a redirect": Hostile([[_xattr(b"user.overlay.redirect") + header(b"d", b"5")]], "entry 'd' sets 'user.overlay."),
    "an attribute that cannot be": Hostile(
        [[_xattr(b"system.posix_acl_access") + header(b"a")]], "has an extended attribute that cannot be set"
    ),
    "a name of 4096 bytes": Hostile(
        [[long_name(b"a/" * 2048) + header(b"x", b"5", magic=GNU)]], "is more than 256 directories deep"
    ),
    "a component of 256 bytes": Hostile([[long_name(b"a" * 256) + header(b"x", magic=GNU)]], "more than 255 bytes"),
    "a negative size": Hostile([[header(b"a", size=base256(-1, 12))]], "entry 'a' has a mode, owner or size out of"),
    "a size beyond the archive": Hostile([[header(b"a", size=1 << 20)]], "ends in the middle of its archive", 7),
    "a size beyond any disk": Hostile([[header(b"a", size=base256(1 << 62, 12))]], "entry 'a' is larger than"),
    "an owner that becomes root when it is cut": Hostile(
        [[header(b"a", uid=base256(1 << 32, 8))]], "entry 'a' has a mode, owner or size out of range"
    ),
    "a time that is no number": Hostile(
        [[extended({b"mtime": b"9" * 30}) + header(b"a")]], "cannot be decompressed or is no archive", 7
    ),
    "a wrong checksum": Hostile([[header(b"a", checksum=b"000000\0 ")]], "has a header whose checksum is wrong"),
    "an entry of an unknown type": Hostile([[header(b"a", b"Z")]], "entry 'a' is a entry of the unknown type"),
    "a global header": Hostile([[header(b"a", b"g")]], "is a global extended header"),
    "an old sparse file": Hostile([[header(b"a", b"S", magic=GNU)]], "entry 'a' is a sparse file of the old"),
    "a sparse file of the form 0.0": Hostile(
        [[extended(record(b"GNU.sparse.offset", b"0") + record(b"GNU.sparse.numbytes", b"9")) + header(b"a")]],
        "entry 'a' is a sparse file of a form",
    ),
    "a sparse file of the form 0.1": Hostile(
        [[extended({b"GNU.sparse.map": b"0,9"}) + header(b"a")]], "entry 'a' is a sparse file of a form"
    ),
    "a sparse file of an exabyte": Hostile(
        [[extended(sparse(realsize=b"1152921504606846976")) + header(b"a", size=512) + bytes(512)]],
        "entry 'holes' is larger than",
    ),
    "a sparse file whose table is none": Hostile(
        [[extended(sparse()) + header(b"a", size=512) + padded(b"junk")]], "cannot be decompressed", 7
    ),
    "a name that acts on a terminal": Hostile(
        [[header(b"../\x1b]0;x\x07\n\xe2\x80\xae")]], r"entry '../\x1b]0;x\x07\n\u202e' leads out"
    ),
    "a limit by a later layer": Hostile(
        [[Entry("a")], [header(b"b", size=base256(1 << 60, 12))]], "entry 'b' is larger than"
    ),
}

# What a container runtime makes of such layers: names of files, and what is in them (None for what is no file).
HARMLESS: dict[str, tuple[Sequence[Sequence[Entry | bytes]], dict[bytes, bytes | None]]] = {
    "a symlink out, and a file in its place": (
        [[symlink("x", f"{OUTSIDE}/secret"), Entry("x", b"new")]],
        {b"x": b"new"},
    ),
    "a symlink out, and a file in its place by the next layer": (
        [[symlink("x", f"{OUTSIDE}/secret")], [Entry("x", b"new")]],
        {b"x": b"new"},
    ),
    "a symlink within, and a file in its place": (
        [[Entry("t", b"old"), symlink("x", "/t")], [Entry("x", b"new")]],
        {b"t": b"old", b"x": b"new"},
    ),
    "a symlink over a directory, then a file through it": (
        [[Entry("d/gone"), directory("e"), symlink("d", "e"), Entry("d/b", b"1")]],
        {b"d": None, b"e": None, b"e/b": b"1"},
    ),
    "a symlink over a directory of the layer below, then a file through it": (
        [[Entry("d/gone"), directory("e")], [symlink("d", "e")], [Entry("d/b", b"1")]],
        {b"d": None, b"e": None, b"e/b": b"1"},
    ),
    "a file through a dangling absolute symlink": (
        [[symlink("a", "/no/where"), Entry("a/x", b"1")]],
        {b"a": None, b"no": None, b"no/where": None, b"no/where/x": b"1"},
    ),
    "a mode for a directory that is a symlink": (
        [[symlink("d", OUTSIDE)], [directory("d", mode=0o777)]],
        {b"d": None},
    ),
    "a hard link to a symlink out, and a file in its place": (
        [[symlink("s", f"{OUTSIDE}/secret"), hardlink("h", "s"), Entry("h", b"new")]],
        {b"s": None, b"h": b"new"},
    ),
    "a whiteout through a symlink to the root": (
        [[Entry("keep"), Entry("gone"), symlink("s", "/")], [whiteout("s/gone")]],
        {b"keep": b"", b"s": None},
    ),
    "a file below a file": ([[Entry("f")], [Entry("f/x", b"1")]], {b"f": None, b"f/x": b"1"}),
    "the same name three times": ([[file(b"a", b"1"), directory("a"), file(b"a", b"2")]], {b"a": b"2"}),
    "times as far as they go": (
        [[header(b"a", mtime=base256(1 << 62, 12)), header(b"b", mtime=base256(-(1 << 60), 12))]],
        {b"a": b"", b"b": b""},
    ),
    "a directory of the name of what umoci reads": (
        [[directory("proc"), Entry("proc/self/uid_map", b"0 5 1")]],
        {b"proc": None, b"proc/self": None, b"proc/self/uid_map": b"0 5 1"},
    ),
}
