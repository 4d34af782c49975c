"""Pod, plain unpack, podman and containerd have the same files of an image; where they do not, it is said why."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from tests.rootfs.faithful import CAPABILITY, FAITHFUL, TIMES, as_described, without_link_counts
from tests.rootfs.local_images import LocalService, gzip_layer
from tests.rootfs.tar_layers import extended, hard_links, header, tree
from tests.rootfs.unpacking import as_root
from tests.support.containerd import Containerd, containerd
from tests.support.images import image
from tests.support.layers import Entry, directory, hardlink, symlink
from tests.support.podman import Podman, podman
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.rootfs.faithful import Tree
    from tests.support.images import Manifest
    from tests.support.registries import Registry

pytestmark = [as_root, pytest.mark.slow]

PODMAN, COPYING_PODMAN, CONTAINERD = "podman, overlay", "podman, vfs", "containerd"
OVERLAYS = (PODMAN, CONTAINERD)
ALL = (PODMAN, COPYING_PODMAN, CONTAINERD)


@dataclasses.dataclass(frozen=True)
class Theirs:
    """A difference that is theirs.

    Attributes:
        why: What they do.
        programs: Who they are.
        paths: Where it is seen.
        refusal: If they refuse the image, a part of what they say.
    """

    why: str
    programs: tuple[str, ...]
    paths: tuple[bytes, ...] = ()
    refusal: str | None = None


ALONE = "they write a layer to an empty directory, where what it says of its parents' links and files is not found"
THEIRS: Mapping[str, tuple[Theirs, ...]] = {
    "hard links inside a layer and across layers": (Theirs(ALONE, OVERLAYS, refusal="no such file or directory"),),
    "whiteouts of files, directories, and of what is not there": (
        Theirs("they make the directory in which a whiteout would be", ALL, (b"e",)),
        Theirs("and the whiteout is listed, as there is nothing below that it would hide", OVERLAYS, (b"e/nothing",)),
    ),
    "a whiteout does not take what its own layer brings": (
        Theirs("they take a file and its whiteout in one layer for an error", OVERLAYS, refusal="file exists"),
        Theirs("it removes what the layer itself brought before", (COPYING_PODMAN,), (b"d", b"d/new", b"f")),
    ),
    "an opaque directory": (Theirs(ALONE + ": its mode is lost", (PODMAN,), (b"d",)),),
    "an opaque root": (Theirs("an overlay's root cannot be opaque", OVERLAYS, (b"a", b"b", b"b/c")),),
    "a file through a symlinked directory of the layer below": (
        Theirs(ALONE, OVERLAYS, (b"lib", b"lib/x", b"usr/lib/x")),
    ),
    "a file through a symlink that leads out stays inside": (
        Theirs(ALONE, OVERLAYS, (b"etc", b"etc/x", b"outside", b"outside/x")),
        Theirs("it makes no directory behind a link", (COPYING_PODMAN,), refusal="no such file or directory"),
    ),
    "through absolute and chained links to directories of layers below": (
        Theirs(ALONE, OVERLAYS, (b"l", b"l/x", b"lib", b"lib/old", b"usr/lib/old", b"usr/lib/x")),
    ),
    "times before 1970 and with fractions": (Theirs("they know no times before 1970", ALL, (b"a",)),),
    "what a layer says again replaces all that one below said": (
        Theirs("it leaves attributes that the layer does not say again", (COPYING_PODMAN,), (b"d",)),
    ),
    TIMES: (
        Theirs("they forget the time of a directory when a layer changes what is in it", ALL, (b"d", b"d/e", b"s")),
        Theirs(ALONE + ": its mode is lost", (PODMAN,), (b"s",)),
    ),
}


@pytest.fixture(scope="module", params=ALL)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def other(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman | Containerd]:
    directory = tmp_path_factory.mktemp("other") / "own"
    started = containerd(directory) if program == CONTAINERD else podman(directory, program.partition(", ")[2])
    with started as running:
        yield running


@pytest.mark.parametrize("case", FAITHFUL)
def test_others_make_the_tree_that_the_layers_describe(
    case: str, program: str, other: Podman | Containerd, crane_registry: Registry, repository: str
) -> None:
    archives, described = FAITHFUL[case]
    theirs = [one for one in THEIRS.get(case, ()) if program in one.programs]
    ref = push(crane_registry, repository, "1", image([gzip_layer(parts) for parts in archives]))
    with contextlib.ExitStack() as mounted:
        try:
            files = mounted.enter_context(other.files_of(ref))
        except AssertionError as error:
            if any(one.refusal is not None and one.refusal in str(error) for one in theirs):
                return
            raise
        found = without_link_counts(as_described(tree(files), described))
    expected = without_link_counts(described)
    named = {path for one in theirs for path in one.paths}
    assert _outside(found, named) == _outside(expected, named)


ODD: list[Entry | bytes] = [
    directory("./"),
    directory("odd"),
    directory("odd/tmp", mode=0o1777),
    Entry("odd/su", b"#!", mode=0o4755),
    Entry("odd/of-a-user", uid=1000, gid=1001, mode=0o640),
    Entry("odd/linked", b"twice"),
    hardlink("odd/link", "odd/linked"),
    symlink("odd/dangling", "/nowhere"),
    Entry("odd/fifo", kind=tarfile.FIFOTYPE),
    Entry("odd/null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
    Entry("odd/" + "n" * 255),
    header(b"odd/caf\xe9", mtime=1),
    extended({b"SCHILY.xattr.security.capability": CAPABILITY, b"SCHILY.xattr.user.a": b"\0"}),
    header(b"odd/ping", mtime=1, mode=0o755),
    extended({b"mtime": b"1000000000.123456789"}) + header(b"odd/fraction"),
]


@pytest.fixture(scope="module")
def whole_image(real_image: Manifest) -> Manifest:
    """A machine's own files, thousands of them, and all that is odd in a layer on top."""
    return image([*real_image.layers, gzip_layer(ODD)])


def test_all_of_them_have_the_same_files_of_a_large_image(
    whole_image: Manifest, crane_registry: Registry, repository: str, store_root: Path, tmp_path: Path
) -> None:
    ref = push(crane_registry, repository, "1", whole_image)
    began = time.time_ns()
    service = LocalService(store_root)
    with contextlib.ExitStack() as running:
        running.callback(service.end)
        pod = service.create_pod(ref).rootfs
        plain = service.unpack(ref, tmp_path / "plain")
        debians = running.enter_context(podman(tmp_path / "podman", "overlay"))
        containers = running.enter_context(containerd(tmp_path / "containerd"))
        others = [running.enter_context(one.files_of(ref)) for one in (debians, containers)]

        ours = _without_times_since(began, tree(plain))
        assert len(ours) > 500
        assert {b"odd/ping", b"odd/caf\xe9"} <= set(ours)
        assert as_described(tree(pod), ours) == ours
        assert hard_links(pod) == hard_links(plain)
        assert frozenset({b"odd/linked", b"odd/link"}) in hard_links(plain)
        unsaid = _directories_changed_unsaid(whole_image)
        for files in others:
            theirs = as_described(tree(files), ours)
            # They forget what a layer below said of a directory, if one above changes what is in it and says nothing.
            assert _outside(theirs, unsaid) == _outside(ours, unsaid)
            assert unsaid <= theirs.keys()
            assert hard_links(files) == hard_links(plain)


def _outside(found: Tree, paths: set[bytes]) -> Tree:
    return {path: node for path, node in found.items() if path not in paths}


def _without_times_since(began: int, found: Tree) -> Tree:
    """Leave out the times of directories that only the names in them imply, which are made now."""
    return {
        path: dataclasses.replace(node, mtime_ns=None)
        if node.kind == "directory" and node.mtime_ns is not None and node.mtime_ns >= began
        else node
        for path, node in found.items()
    }


def _directories_changed_unsaid(manifest: Manifest) -> set[bytes]:
    """Return the directories in which a layer, but for the lowest, changes something without listing them again."""
    found = set()
    for made in manifest.layers[1:]:
        with tarfile.open(fileobj=io.BytesIO(made.content)) as archive:
            names = {os.fsencode(name.strip("./")) for name in archive.getnames()}
        found |= {os.path.dirname(name) for name in names} - names  # noqa: PTH120 - pathlib knows no bytes
    return found
