"""A layer that was unpacked apart from its parents makes the pod that it makes over them, whatever is in it."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.digest import sha256_of
from micropod_img.rootfs import making
from micropod_img.rootfs.drivers import choice
from micropod_img.rootfs.footprint import Footprint
from micropod_img.rootfs.gate import GateReport
from micropod_img.rootfs.gated import Passed
from micropod_img.rootfs.joining import join
from micropod_img.rootfs.layer_blobs import LayerBlob
from micropod_img.rootfs.tar_headers import DIRECTORY, REGULAR
from micropod_img.rootfs.tar_headers import Entry as TarEntry
from tests.rootfs.faithful import CAPABILITY, MTIME, SECOND
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import NOTHING, Node, extended, hard_links, header, tree
from tests.rootfs.test_drivers import driver_of
from tests.rootfs.unpacking import as_root
from tests.rootfs.user_namespaces import run_python
from tests.support.layers import Entry, directory, hardlink, symlink, whiteout
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.rootfs.faithful import Archives, Tree

pytestmark = as_root

LONG_AGO = MTIME - 1000
XATTRS = {b"user.d": b"1", b"security.capability": CAPABILITY}
_ANYONE = 0xFFFFFFFF
_ACL = ((1, 7, _ANYONE), (2, 7, 1000), (4, 5, _ANYONE), (16, 7, _ANYONE), (32, 5, _ANYONE))
DEFAULT_ACL = {b"system.posix_acl_default": struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in _ACL)}


def odd(
    name: bytes, mode: int = 0o711, *, owner: int = 5, group: int = 50, xattrs: Mapping[bytes, bytes] = XATTRS
) -> bytes:
    """A directory that has nothing as one that is only implied has it."""
    records = {b"SCHILY.xattr." + key: value for key, value in xattrs.items()}
    said = header(name, b"5", mode=mode, uid=owner, gid=group, mtime=LONG_AGO)
    return (extended(records) if records else b"") + said


BASE: Sequence[Entry | bytes] = [
    odd(b"d"),
    odd(b"d/e", 0o1777),
    odd(b"d/e/su", 0o4750),
    Entry("d/old"),
    Entry("d/e/old"),
]
DEEP = "/".join(["n" * 200] * 15)
TOO_DEEP = "/".join(["n" * 15] * 253)

JOINED: Mapping[str, Archives] = {
    "files in directories of which it says nothing": [BASE, [Entry("d/e/su/x", b"1"), Entry("d/y")]],
    "directories with another mode and without attributes": [
        BASE,
        [directory("d", mode=0o700), Entry("d/x"), directory("d/e", mode=0o2750)],
    ],
    "directories with other attributes": [
        BASE,
        [odd(b"d", owner=7, xattrs={b"user.other": b"2"}), odd(b"d/e", group=8, xattrs={}), Entry("d/e/su/x")],
    ],
    "a directory twice with different modes": [
        BASE,
        [directory("d", mode=0o700), Entry("d/x"), directory("d", mode=0o2755), Entry("d/y")],
    ],
    "a directory that comes after what is in it": [BASE, [Entry("d/e/x"), directory("d/e", mode=0o700)]],
    "new directories, listed or not": [BASE, [directory("n", mode=0o1700), Entry("n/x"), Entry("m/o/x")]],
    "a file over a directory": [BASE, [Entry("d", b"1")]],
    "a symlink over a directory": [BASE, [symlink("d", "elsewhere")]],
    "other things over files": [
        [Entry("a"), Entry("b", mode=0o4755), symlink("c", "a")],
        [symlink("a", "c"), Entry("b", b"2"), header(b"c", b"6", mode=0o600, mtime=MTIME)],
    ],
    "devices": [BASE, [header(b"d/null", b"3", major=1, minor=3, mode=0o666), header(b"d/sda", b"4", major=8, gid=6)]],
    "hard links among its own files": [BASE, [Entry("d/a", b"1"), hardlink("d/e/b", "d/a"), hardlink("c", "/d/a")]],
    "a hard link to its own symlink": [BASE, [symlink("d/s", "nowhere"), hardlink("d/h", "d/s")]],
    "files in a root of which it says nothing": [[odd(b"./", 0o1755), Entry("a")], [Entry("b")]],
    "a root with an odd mode": [[odd(b"./")], [odd(b"./", 0o1700, owner=9, xattrs={}), Entry("b")]],
    "names that are not text": [
        [odd(b"caf\xe9"), odd(b"caf\xe9/new\nline")],
        [header(b"caf\xe9/new\nline/\xff", mtime=MTIME), header(b"\xfe/x")],
    ],
    "long names": [[Entry(f"{DEEP}/old")], [Entry(f"{DEEP}/x"), Entry("d" * 255)]],
    "nothing": [BASE, []],
    "a directory that the layer in the middle took away": [
        BASE,
        [Entry("d/e/x")],
        [directory("d", mode=0o700), Entry("d/x")],
    ],
    "a directory where the layer in the middle says nothing": [BASE, [Entry("other")], [Entry("d/e/x")]],
}
"""Nothing of these is unpacked twice: that is what unpacking apart is for."""

OTHERS: Mapping[str, Archives] = {
    "a file through a symlink of the layer below": [[odd(b"usr/lib"), symlink("lib", "usr/lib")], [Entry("lib/x")]],
    "a directory over a file": [[Entry("x")], [directory("x"), Entry("x/y")]],
    "a directory that is not listed over a file": [[Entry("x")], [Entry("x/y")]],
    "a directory over a symlink": [[odd(b"d"), symlink("s", "d")], [directory("s"), Entry("s/x")]],
    "a listed directory through a symlink of its own": [
        [odd(b"real")],
        [symlink("s", "real"), directory("s/sub", mode=0o700)],
    ],
    "a file through a symlink of its own to a directory below": [[odd(b"d")], [symlink("s", "d"), Entry("s/x", b"1")]],
    "a file through a symlink of its own to a symlink below": [
        [odd(b"d"), symlink("l", "d")],
        [symlink("s", "/l"), Entry("s/x", b"1")],
    ],
    "a file through a symlink of its own to a file below": [[Entry("f")], [symlink("s", "f"), Entry("s/x", b"1")]],
    "a symlink over a directory, then a file through it": [
        [Entry("d/gone"), odd(b"e")],
        [symlink("d", "e"), Entry("d/x")],
    ],
    "a symlink to the root, then a directory through it": [BASE, [symlink("s", "/"), directory("s/d", mode=0o700)]],
    "a hard link to a file below": [[Entry("a", b"1", mode=0o4755)], [hardlink("h", "a"), Entry("x")]],
    "a hard link to a file below that it replaces later": [[Entry("a", b"1")], [hardlink("h", "a"), Entry("a", b"2")]],
    "a hard link through a symlink below": [[Entry("d/a"), symlink("s", "d")], [hardlink("h", "s/a")]],
    "a whiteout of a file": [BASE, [Entry("d/e/x"), whiteout("d/old")]],
    "a whiteout of a directory": [BASE, [whiteout("d/e"), Entry("y")]],
    "an opaque directory": [BASE, [Entry("d/.wh..wh..opq"), Entry("d/x")]],
    "a whiteout of nothing": [BASE, [whiteout("n/nothing"), Entry("n/x")]],
    "a directory that was taken away in between": [BASE, [whiteout("d")], [directory("d"), Entry("d/x")]],
    "a directory that is implied where one was taken away": [BASE, [whiteout("d")], [Entry("d/e/x")]],
    "a directory that was emptied in between": [BASE, [Entry("d/.wh..wh..opq")], [Entry("d/e/x")]],
    "a directory that was a file in between": [BASE, [Entry("d")], [directory("d"), Entry("d/e/x")]],
    "a directory that was a symlink in between": [BASE, [symlink("d", "z")], [directory("d"), Entry("d/e/x")]],
    "a directory that was a file in between, and taken away": [
        BASE,
        [Entry("d")],
        [whiteout("d")],
        [directory("d", mode=0o700), Entry("d/x")],
    ],
    "the same layer twice": [BASE, [Entry("d/e"), Entry("x")], BASE],
    "the same layer twice in a row": [BASE, [Entry("d/x"), Entry("d/e/y")], [Entry("d/x"), Entry("d/e/y")]],
    "a file, then a directory in its place": [BASE, [Entry("d"), directory("d"), Entry("d/x")]],
    "a file, then a directory in its place that is implied": [BASE, [Entry("d"), Entry("d/x")]],
    "a symlink, then a directory in its place": [BASE, [symlink("d", "z"), directory("d"), Entry("d/x")]],
    "a directory through a symlink that it replaces later": [
        [odd(b"real"), odd(b"real/sub")],
        [symlink("s", "real"), directory("s/sub", mode=0o700), directory("s"), directory("s/sub")],
    ],
    "a file through a symlink with two dots behind a symlink below": [
        [odd(b"far"), odd(b"far/deep"), odd(b"far/e"), symlink("l", "far/deep")],
        [symlink("s", "l/../e"), Entry("s/x", b"1")],
    ],
    "an implied directory in one whose group passes on": [[odd(b"d", 0o2775)], [Entry("d/new/x")]],
    "an implied directory in a root whose group passes on": [[odd(b"./", 0o2775)], [Entry("new/x")]],
    "an implied directory far in one whose group passes on, which is listed later": [
        [odd(b"d", 0o2775)],
        [Entry("d/a/b/x"), directory("d/a"), directory("d")],
    ],
    "files and listed directories in one whose group passes on": [
        [odd(b"d", 0o2775)],
        [Entry("d/x", gid=7), directory("d/new", mode=0o700), Entry("d/new/y")],
    ],
    "an implied directory in one whose access list passes on": [[odd(b"d", xattrs=DEFAULT_ACL)], [Entry("d/new/x")]],
    "files and listed directories in one whose access list passes on": [
        [odd(b"d", xattrs=DEFAULT_ACL)],
        [Entry("d/x"), directory("d/new"), Entry("d/new/y")],
    ],
}
BOTH_WAYS = {**JOINED, **OTHERS}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is seen of a pod: its files with its root, and which of them are one."""

    files: Tree
    hard_links: set[frozenset[bytes]]


def seen(service: LocalService, layers: Archives, *, apart: bool) -> Seen:
    """Make a pod; what has no time but that of the test has none."""
    begun = time.time_ns() - SECOND  # the kernel's clock of files is a little late
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "_SMALLEST_APART", 0 if apart else 1 << 60)
        rootfs = service.create_pod(service.put_layers(*layers), policy="never").rootfs
    files = {path: node for path, node in tree(rootfs.parent).items() if path.split(b"/")[0] == b"rootfs"}
    timeless = {
        path: dataclasses.replace(node, mtime_ns=None) if (node.mtime_ns or 0) >= begun else node
        for path, node in files.items()
    }
    return Seen(timeless, hard_links(rootfs))


def differences(apart: Seen, over: Seen) -> dict[str, str]:
    """Tell what differs, but for directories' times that are those of the test: umoci does so far above new ones."""
    found: dict[str, str] = {}
    for path in sorted(apart.files.keys() | over.files.keys()):
        one, other = apart.files.get(path, NOTHING), over.files.get(path, NOTHING)
        if one.kind == other.kind == "directory" and None in (one.mtime_ns, other.mtime_ns):
            one, other = (dataclasses.replace(node, mtime_ns=None) for node in (one, other))
        if one != other:
            found[repr(path)] = f"{one} is {other} over its parents"
    if apart.hard_links != over.hard_links:
        found["hard links"] = f"{apart.hard_links} are {over.hard_links} over its parents"
    return found


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str) -> Iterator[dict[bool, LocalService]]:
    """A store for layers that are unpacked apart, and one for those that are not."""
    monkeypatch.setattr(choice, "drivers", lambda layout: (driver_of(layout, driver),))
    made = {apart: new_service(tmp_path / f"apart-{apart}") for apart in (True, False)}
    yield made
    for service in made.values():
        service.end()
        assert list(service.root.glob("tmp/*")) == []


@pytest.fixture(params=["overlay", "overlay-userxattr"])
def driver(request: pytest.FixtureRequest) -> str:
    """Each of the drivers whose snapshots layers that were unpacked apart can be."""
    return str(request.param)


def new_service(root: Path) -> LocalService:
    root.mkdir(mode=0o700)
    return LocalService(root)


@pytest.mark.parametrize("case", BOTH_WAYS)
def test_a_pod_is_the_same_whether_its_layers_were_unpacked_apart_or_over_their_parents(
    case: str, services: dict[bool, LocalService], unpacked: list[str]
) -> None:
    apart = seen(services[True], BOTH_WAYS[case], apart=True)
    if case in JOINED:
        assert len(unpacked) == len(JOINED[case])
    assert differences(apart, seen(services[False], BOTH_WAYS[case], apart=False)) == {}


@pytest.mark.parametrize("driver", ["overlay"], indirect=True)
def test_names_that_only_umoci_can_say_are_unpacked_over_the_parents(services: dict[bool, LocalService]) -> None:
    service, name = services[True], f"{TOO_DEEP}/end"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "_SMALLEST_APART", 0)
        pod = service.create_pod(service.put_layers([Entry(f"{TOO_DEEP}/old")], [Entry(name)]), policy="never")
    assert f"{pod.rootfs}/{name}" in run("find", pod.rootfs, "-name", "end").stdout.split()


TELL = """
import sys
from pathlib import Path
from tests.rootfs.test_joining import tell_differences
tell_differences(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def tell_differences(directory: Path, told: Path) -> None:
    """Make a pod of each image of the table on both ways, and write down how they differ."""
    found: dict[str, dict[str, str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "drivers", lambda layout: (driver_of(layout, "overlay-userxattr"),))
        services = {apart: new_service(directory / f"apart-{apart}") for apart in (True, False)}
        try:
            for case, layers in BOTH_WAYS.items():
                found[case] = differences(*(seen(service, layers, apart=apart) for apart, service in services.items()))
        finally:
            for service in services.values():
                service.end()
    told.write_text(json.dumps({case: difference for case, difference in found.items() if difference}))


@pytest.mark.slow
def test_pods_are_the_same_on_both_ways_in_a_user_namespace(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    assert run_python(TELL, tmp_path, told) == 0
    assert json.loads(told.read_text()) == {}


@dataclasses.dataclass(frozen=True)
class Join:
    """A layer, what is below, each a line for a file: ``d/``, ``f`` or ``l -> target``; and what the gate saw."""

    files: Sequence[str]
    below: Sequence[str] = ()
    directories: frozenset[bytes] | None = frozenset()
    has_whiteouts: bool = False
    has_root: bool = False


ACCEPTED = {
    "nothing over nothing": Join([]),
    "what is new": Join(["f", "d/", "d/f", "s -> d"]),
    "files over files": Join(["f", "s -> d"], ["f", "s"]),
    "a file over a directory": Join(["d"], ["d/", "d/f"]),
    "a symlink over a directory": Join(["d -> e"], ["d/", "d/f"]),
    "a directory over one": Join(["d/", "d/e/", "d/e/f"], ["d/", "d/e/", "d/e/g"]),
    "a listed directory over one": Join(["d/", "d/f"], ["d/"], frozenset({b"d"})),
    "a listed directory over nothing": Join(["d/", "d/e/"], [], frozenset({b"d/e"})),
    "a listed root": Join(["f"], ["f"], has_root=True),
    "names that are not text": Join(["\udcff/", "\udcff/f"], ["\udcff/"]),
}
REFUSED = {
    "a whiteout": Join(["d/", "d/f"], ["d/"], has_whiteouts=True),
    "very many directories": Join(["d/", "d/f"], ["d/"], None),
    "a directory over a file": Join(["a/", "a/f", "d/"], ["a/", "d"]),
    "a listed directory over a file": Join(["a/", "d/"], ["a/", "d"], frozenset({b"d"})),
    "a directory over a symlink to one": Join(["a/", "d/"], ["a/", "e/", "d -> e"]),
    "a directory over a symlink to nothing": Join(["a/", "d/"], ["a/", "d -> e"]),
    "a directory deep below over a file": Join(["a/", "a/b/", "a/b/c/"], ["a/", "a/b/", "a/b/c"]),
    "a listed directory that is elsewhere": Join(["a/", "a/sub/", "s -> a"], ["a/"], frozenset({b"a", b"s/sub"})),
    "a listed directory that is a file now": Join(["a/", "d"], ["a/"], frozenset({b"d"})),
    "a listed directory that is a symlink now": Join(["a/", "d -> a"], ["a/"], frozenset({b"d"})),
}


def put(top: Path, lines: Sequence[str], mode: int) -> Path:
    """Make files; directories, from the innermost on, get a mode, a time and an attribute that tell whose they are."""
    top.mkdir()
    for line in lines:
        name, _, target = line.partition(" -> ")
        path = top / name
        if target:
            path.symlink_to(target)
        elif name.endswith("/"):
            path.mkdir()
        else:
            path.write_text(str(mode))
    for path in sorted(
        (path for path in (top, *top.rglob("*")) if path.is_dir() and not path.is_symlink()), reverse=True
    ):
        path.chmod(mode)
        os.chown(path, mode, mode)
        os.setxattr(path, f"user.of-{mode}", b"1")
        os.utime(path, (mode, mode))
    return top


LAYERS_OWN, PARENTS = 0o700, 0o750


def gated(case: Join) -> Passed:
    """Return what the gate says of a layer with some directories, and maybe a whiteout; None of them are too many."""
    footprint = Footprint(lambda: None)
    for name in case.directories or ():
        footprint.note(TarEntry(name, DIRECTORY, 0, b"", 0o755, (0, 0), {}, 0), is_whiteout=False)
    if case.has_whiteouts:
        footprint.note(TarEntry(b".wh.x", REGULAR, 0, b"", 0o644, (0, 0), {}, 0), is_whiteout=True)
    report = GateReport(sha256_of(b""), 0, 0, has_xattrs=False, has_root=case.has_root)
    blob = LayerBlob(Path(), report.diff_id, report.diff_id)
    return Passed(blob, report, None if case.directories is None else footprint)


def joined(case: Join, directory: Path) -> tuple[bool, Tree, Tree]:
    """Return whether files were joined, and what they were before, and are now, with their root."""
    (directory / "layer").mkdir()
    files = put(directory / "layer/fs", case.files, LAYERS_OWN)
    below = put(directory / "below", case.below, PARENTS)
    before, before_below = tree(files.parent), tree(below)
    can_be = join(files, below, gated(case))
    assert tree(below) == before_below
    return can_be, before, tree(files.parent)


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_a_snapshot_are_refused_and_left_as_they_are(case: str, tmp_path: Path) -> None:
    can_be, before, after = joined(REFUSED[case], tmp_path)
    assert not can_be
    assert after == before


@pytest.mark.parametrize("case", ACCEPTED)
def test_files_that_can_be_a_snapshot_get_what_is_below_of_directories_that_are_not_listed(
    case: str, tmp_path: Path
) -> None:
    one = ACCEPTED[case]
    can_be, before, after = joined(one, tmp_path)
    assert can_be
    listed = one.directories or frozenset()
    parents = {os.fsencode(line.rstrip("/")) for line in one.below if line.endswith("/")} - listed
    inherited = {b"fs/" + path for path in parents if before.get(b"fs/" + path, NOTHING).kind == "directory"}
    inherited |= set() if one.has_root else {b"fs"}
    assert {path for path in before if after[path] != before[path]} == inherited
    for path in inherited:
        assert after[path] == Node(
            "directory", PARENTS, (PARENTS, PARENTS), mtime_ns=PARENTS * SECOND, xattrs=((f"user.of-{PARENTS}", b"1"),)
        )


def test_what_overlays_keep_of_directories_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    files, below = put(tmp_path / "layer/fs", ["d/"], LAYERS_OWN), put(tmp_path / "below", ["d/"], PARENTS)
    os.setxattr(files / "d", "user.overlay.origin", b"layer")
    for name in ("user.overlay.opaque", "trusted.overlay.opaque"):
        os.setxattr(below / "d", name, b"y")
    assert join(files, below, gated(Join([], [])))
    assert set(os.listxattr(files / "d")) == {f"user.of-{PARENTS}", "user.overlay.origin"}
