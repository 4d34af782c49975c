"""Layers and the trees that they describe, as plain values: one table for the plain unpack and for every driver."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tarfile
from typing import TYPE_CHECKING, TypeAlias

from tests.rootfs.tar_layers import GNU, V7, Node, base256, extended, file, header, long_name
from tests.support.layers import Entry, directory, hardlink, symlink, whiteout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Archive: TypeAlias = "list[Entry]"
Archives: TypeAlias = "Sequence[Sequence[Entry | bytes]]"
Tree: TypeAlias = "dict[bytes, Node]"

MTIME = 1_700_000_000
SECOND = 1_000_000_000
LISTED = MTIME * SECOND
"""Nanoseconds of the time that `Entry` gives to all that a layer lists."""


def regular(content: bytes = b"", mode: int = 0o644, **fields: object) -> Node:
    return Node("file", mode, content=content, mtime_ns=LISTED, **fields)  # type: ignore[arg-type]


def folder(mode: int = 0o755, **fields: object) -> Node:
    """Return a directory; any time will do unless one is given, as for those that only the names in them imply."""
    return Node("directory", mode, **fields)  # type: ignore[arg-type]


def link(target: bytes, *, links: int = 1) -> Node:
    return Node("symlink", 0o777, content=target, mtime_ns=LISTED, links=links)


def as_described(found: Tree, described: Tree) -> Tree:
    """Return what was found without the times of directories of which the description says none."""
    timeless = {path for path, node in described.items() if node.mtime_ns is None}
    return {
        path: dataclasses.replace(node, mtime_ns=None) if path in timeless else node for path, node in found.items()
    }


def without_link_counts(tree: Tree) -> Tree:
    """Leave out how many names a file has: an overlay does not know those in layers below (index=off)."""
    return {path: dataclasses.replace(node, links=0) for path, node in tree.items()}


KINDS: Mapping[str, tuple[Archive, Tree]] = {
    "file": ([Entry("x", b"1")], {b"": regular(b"1")}),
    "directory": ([directory("x"), Entry("x/child")], {b"": folder(), b"/child": regular()}),
    "symlink": ([symlink("x", "nowhere")], {b"": link(b"nowhere")}),
    "link to a directory": ([symlink("x", "there")], {b"": link(b"there")}),
    "FIFO": ([Entry("x", kind=tarfile.FIFOTYPE)], {b"": Node("fifo", 0o644, mtime_ns=LISTED)}),
}
DEVICE: tuple[Archive, Tree] = (
    [Entry("x", kind=tarfile.CHRTYPE, device=(1, 3))],
    {b"": Node("character device", 0o644, mtime_ns=LISTED, device=os.makedev(1, 3))},
)


def changes(pairs: Iterable[tuple[tuple[Archive, Tree], tuple[Archive, Tree]]]) -> tuple[Archives, Tree]:
    """Return two layers in which each name changes from one kind to another, and the tree that they make."""
    below: Archive = [directory("there")]
    above: Archive = []
    made: Tree = {b"there": folder()}
    for number, ((before, _), (after, nodes)) in enumerate(pairs):
        name = f"n{number}"
        below += [_renamed(entry, name) for entry in before]
        above += [_renamed(entry, name) for entry in after]
        made |= {name.encode() + path: node for path, node in nodes.items()}
    return [below, above], made


def _renamed(entry: Entry, name: str) -> Entry:
    return dataclasses.replace(entry, name=name + entry.name.removeprefix("x"))


CAPABILITY = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
NAMES = [b"caf\xe9", b"new\nline", b"\x1b[31m", b"back\\slash", b"a:b", b".wh", b"wh.x", b"..a", b"a..", b"...", b" "]
TIMES = "times of directories, also of those whose files a later layer changes"
FAITHFUL: Mapping[str, tuple[Archives, Tree]] = {
    "modes with setuid, setgid and sticky": (
        [[Entry("su", mode=0o4755), Entry("sg", mode=0o2711), directory("t", mode=0o1777), Entry("no", mode=0)]],
        {b"su": regular(mode=0o4755), b"sg": regular(mode=0o2711), b"t": folder(0o1777), b"no": regular(mode=0)},
    ),
    "owners": (
        [
            [Entry("a", uid=1000, gid=65534), Entry("b", uid=4_000_000, gid=3_000_000)],
            [header(b"c", uid=base256(1 << 31, 8), mtime=MTIME)],
        ],
        {
            b"a": regular(owner=(1000, 65534)),
            b"b": regular(owner=(4_000_000, 3_000_000)),
            b"c": regular(owner=(1 << 31, 0)),
        },
    ),
    "attributes": (
        [
            [
                extended({b"SCHILY.xattr.security.capability": CAPABILITY, b"SCHILY.xattr.user.a": b"\0\n="}),
                header(b"ping", mtime=MTIME),
                extended({b"SCHILY.xattr.user.d": b"1"}) + header(b"d", b"5", mode=0o755),
            ]
        ],
        {
            b"ping": regular(xattrs=(("security.capability", CAPABILITY), ("user.a", b"\0\n="))),
            b"d": folder(xattrs=(("user.d", b"1"),)),
        },
    ),
    "hard links inside a layer and across layers": (
        [[Entry("a", b"1"), hardlink("b", "a")], [hardlink("d/c", "/./b")]],
        {
            b"a": regular(b"1", links=3),
            b"b": regular(b"1", links=3),
            b"d": folder(),
            b"d/c": regular(b"1", links=3),
        },
    ),
    "a hard link to a symlink": (
        [[symlink("s", "/nowhere"), hardlink("h", "s")]],
        {b"s": link(b"/nowhere", links=2), b"h": link(b"/nowhere", links=2)},
    ),
    "symlinks of any target": (
        [[symlink("up", "../../etc"), symlink("abs", "/etc/passwd"), symlink("self", "self")]],
        {b"up": link(b"../../etc"), b"abs": link(b"/etc/passwd"), b"self": link(b"self")},
    ),
    "FIFOs and devices": (
        [
            [
                header(b"p", b"6", mtime=MTIME),
                header(b"null", b"3", major=1, minor=3, mode=0o666, mtime=MTIME),
                header(b"sda", b"4", major=8, minor=1, mode=0o660, gid=6, mtime=MTIME),
            ]
        ],
        {
            b"p": Node("fifo", 0o644, mtime_ns=LISTED),
            b"null": Node("character device", 0o666, mtime_ns=LISTED, device=os.makedev(1, 3)),
            b"sda": Node("block device", 0o660, owner=(0, 6), mtime_ns=LISTED, device=os.makedev(8, 1)),
        },
    ),
    "whiteouts of files, directories, and of what is not there": (
        [
            [Entry("a"), Entry("d/x"), Entry("d/y"), Entry("keep")],
            [whiteout("a"), whiteout("d"), whiteout("e/nothing"), whiteout("none")],
        ],
        {b"keep": regular()},
    ),
    "a whiteout does not take what its own layer brings": (
        [[Entry("d/old")], [Entry("d/new"), whiteout("d"), Entry("f"), whiteout("f")]],
        {b"d": folder(), b"d/new": regular(), b"f": regular()},
    ),
    "an opaque directory": (
        [[directory("d", mode=0o700), Entry("d/a"), Entry("d/e/b")], [Entry("d/.wh..wh..opq"), Entry("d/c")]],
        {b"d": folder(0o700), b"d/c": regular()},
    ),
    "an opaque root": ([[Entry("a"), Entry("b/c")], [Entry(".wh..wh..opq"), Entry("n")]], {b"n": regular()}),
    "what aufs left": (
        [
            [Entry("a")],
            [Entry(".wh..wh.aufs"), directory(".wh..wh.plnk"), header(b".wh.a", b"1", link=b".wh..wh.aufs")],
        ],
        {},
    ),
    "a directory becomes a file": ([[Entry("x/y")], [Entry("x", b"1")]], {b"x": regular(b"1")}),
    "a file becomes a directory": (
        [[Entry("x", b"1")], [directory("x"), Entry("x/y")]],
        {b"x": folder(), b"x/y": regular()},
    ),
    "a symlink becomes a directory": (
        [[directory("d"), Entry("d/a"), symlink("s", "d")], [directory("s"), Entry("s/b")]],
        {b"d": folder(), b"d/a": regular(), b"s": folder(), b"s/b": regular()},
    ),
    "a directory becomes a symlink": (
        [[Entry("d/a"), Entry("e/b")], [symlink("d", "e")]],
        {b"d": link(b"e"), b"e": folder(), b"e/b": regular()},
    ),
    "a file becomes a FIFO and a FIFO a file": (
        [[Entry("f"), header(b"p", b"6")], [header(b"f", b"6", mtime=MTIME), Entry("p")]],
        {b"f": Node("fifo", 0o644, mtime_ns=LISTED), b"p": regular()},
    ),
    "a file through a symlinked directory of the layer below": (
        [[directory("usr/lib"), symlink("lib", "usr/lib")], [Entry("lib/x", b"1")]],
        {b"lib": link(b"usr/lib"), b"usr": folder(), b"usr/lib": folder(), b"usr/lib/x": regular(b"1")},
    ),
    "a file through a symlink that leads out stays inside": (
        [[symlink("etc", "/../../../../../../outside")], [Entry("etc/x", b"1")]],
        {b"etc": link(b"/../../../../../../outside"), b"outside": folder(), b"outside/x": regular(b"1")},
    ),
    "long names": (
        [
            [Entry("/".join(["d" * 200] * 5)), Entry("n" * 255), symlink("s", "t" * 3000)],
            [long_name(b"l" * 150) + header(b"x", magic=GNU, mtime=MTIME)],
        ],
        {
            **{b"/".join([b"d" * 200] * depth): folder() for depth in range(1, 5)},
            b"/".join([b"d" * 200] * 5): regular(),
            b"n" * 255: regular(),
            b"l" * 150: regular(),
            b"s": link(b"t" * 3000),
        },
    ),
    "names that are not text": (
        [[header(name, mtime=MTIME) for name in NAMES]],
        {name: regular() for name in NAMES},
    ),
    "absolute names": (
        [[file(b"/a/b", b"1", mtime=MTIME), header(b"./c", mtime=MTIME)]],
        {b"a": folder(), b"a/b": regular(b"1"), b"c": regular()},
    ),
    "old archives": (
        [[header(b"d/", b"\0", magic=V7, mode=0o750), header(b"d/f", b"\0", magic=V7, mtime=MTIME)]],
        {b"d": folder(0o750), b"d/f": regular()},
    ),
    "a sparse file": (
        [
            [
                extended(
                    {
                        b"GNU.sparse.major": b"1",
                        b"GNU.sparse.minor": b"0",
                        b"GNU.sparse.name": b"holes",
                        b"GNU.sparse.realsize": b"70000",
                    }
                ),
                file(b"GNUSparseFile.1/holes", b"2\n0\n3\n69997\n3\n".ljust(512, b"\0") + b"one" + b"two", mtime=MTIME),
            ]
        ],
        {b"holes": regular(b"one".ljust(69997, b"\0") + b"two")},
    ),
    "times before 1970 and with fractions": (
        [[extended({b"mtime": b"-1.5"}) + header(b"a"), extended({b"mtime": b"1.75"}) + header(b"b")]],
        {b"a": Node("file", 0o644, mtime_ns=-1_500_000_000), b"b": Node("file", 0o644, mtime_ns=1_750_000_000)},
    ),
    "each type becomes each other": changes(itertools.permutations(KINDS.values(), 2)),
    "devices become other things, and those devices": changes(
        [pair for other in KINDS.values() for pair in ((DEVICE, other), (other, DEVICE))]
    ),
    "what a layer says again replaces all that one below said": (
        [
            [
                extended({b"SCHILY.xattr.security.capability": CAPABILITY, b"SCHILY.xattr.user.a": b"1"}),
                header(b"f", mode=0o4755, uid=5, gid=6),
                extended({b"SCHILY.xattr.user.d": b"1"}) + header(b"d", b"5", mode=0o2777, uid=5),
                Entry("d/kept"),
            ],
            [Entry("f", b"2"), directory("d", mode=0o700)],
        ],
        {b"f": regular(b"2"), b"d": folder(0o700, mtime_ns=LISTED), b"d/kept": regular()},
    ),
    TIMES: (
        [
            [directory("d"), directory("d/e"), Entry("d/e/f"), Entry("d/x"), directory("s", mode=0o2775)],
            [Entry("d/g"), whiteout("d/x"), Entry("d/e/.wh.f"), directory("s/sub"), Entry("s/sub/f")],
            [Entry("d/g", b"again")],
        ],
        {
            b"d": folder(mtime_ns=LISTED),
            b"d/e": folder(mtime_ns=LISTED),
            b"d/g": regular(b"again"),
            b"s": folder(0o2775, mtime_ns=LISTED),
            b"s/sub": folder(mtime_ns=LISTED),
            b"s/sub/f": regular(),
        },
    ),
    "times of this century and the next": (
        [[extended({b"mtime": b"4102444800.123456789"}) + header(b"a"), header(b"b", mtime=0)]],
        {b"a": Node("file", 0o644, mtime_ns=4102444800 * SECOND + 123456789), b"b": Node("file", 0o644, mtime_ns=0)},
    ),
    "an opaque directory that brings the same names again": (
        [
            [directory("d"), Entry("d/a"), directory("d/e"), Entry("d/e/f")],
            [directory("d"), Entry("d/.wh..wh..opq"), Entry("d/e/g")],
        ],
        {b"d": folder(), b"d/e": folder(), b"d/e/g": regular()},
    ),
    "through absolute and chained links to directories of layers below": (
        [
            [directory("usr/lib"), Entry("usr/lib/old"), symlink("lib", "/usr/lib"), symlink("l", "lib")],
            [Entry("l/x", b"1"), whiteout("lib/old")],
        ],
        {
            b"usr": folder(),
            b"usr/lib": folder(),
            b"usr/lib/x": regular(b"1"),
            b"lib": link(b"/usr/lib"),
            b"l": link(b"lib"),
        },
    ),
    "nothing at all": ([[], []], {}),
}
