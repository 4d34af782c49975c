"""Layers of an image are unpacked beside one another, and nothing else is different for that."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import gzip
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from micropod_img.cancellation import CancelledError
from micropod_img.digest import hex_of, sha256_of
from micropod_img.errors import DiskError, MicropodError, ToolError
from micropod_img.rootfs import commits, fuse_file, making
from micropod_img.rootfs.chain import chain_ids
from micropod_img.rootfs.commits import Commits
from micropod_img.rootfs.mountinfo import mount_points
from micropod_img.rootfs.umoci import UnpackRoot, UnpackRoots
from tests.rootfs.hostile_layers import HOSTILE, Hostile
from tests.rootfs.local_images import LocalService, gzip_layer
from tests.rootfs.tar_layers import GZIP_LAYER, stored, tree
from tests.rootfs.unpacking import archive_of, as_root, blob_of
from tests.rootfs.user_namespaces import run_python
from tests.support.images import image
from tests.support.layers import Entry, Layer, directory, hardlink, layer, random_layer, whiteout
from tests.support.processes import soon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.rootfs.chain import ChainId
    from micropod_img.rootfs.layer_blobs import LayerBlob
    from tests.rootfs.tar_layers import Node

pytestmark = as_root

SECONDS = 60
LARGE = 5 << 20
BASE = gzip_layer([directory("d", mode=0o711), Entry("d/old", b"1"), Entry("base")])


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    """A service that leaves nothing of its work."""
    made = LocalService(store_root)
    made.driver_choice()
    before = set(threading.enumerate())
    yield made
    assert list((store_root / "tmp").iterdir()) == []
    made.end()
    assert [path for path in mount_points() if path.is_relative_to(store_root)] == []
    assert soon(lambda: set(threading.enumerate()) <= before), threading.enumerate()


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of any size are unpacked apart."""
    monkeypatch.setattr(making, "_SMALLEST_APART", 0)


def pod_of(service: LocalService, *layers: Layer) -> dict[bytes, Node]:
    return tree(service.create_pod(service.put(image(layers)), policy="never").rootfs)


def over_parents(root: Path, *layers: Layer) -> dict[bytes, Node]:
    """Return the tree of a pod whose layers were all unpacked over their parents."""
    root.mkdir(mode=0o700)
    service = LocalService(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "_SMALLEST_APART", 1 << 60)
        try:
            return pod_of(service, *layers)
        finally:
            service.end()


def snapshots(root: Path) -> set[str]:
    return {path.name for path in (root / "snapshots").iterdir() if len(path.name) == 64}


def names_of(*layers: Layer) -> set[str]:
    return {hex_of(chain) for chain in chain_ids(layer.diff_id for layer in layers)}


def around_umoci(
    monkeypatch: pytest.MonkeyPatch, around: Callable[[str], contextlib.AbstractContextManager[object]]
) -> None:
    """Have something around each run of umoci for one layer, given by its digest."""
    real = UnpackRoot.unpack_layer

    def unpack_layer(self: UnpackRoot, blob: LayerBlob, **arguments: object) -> None:
        with around(blob.digest):
            real(self, blob, **arguments)  # type: ignore[arg-type]  # its only one is handed on as it is

    monkeypatch.setattr(UnpackRoot, "unpack_layer", unpack_layer)


@pytest.mark.parametrize("layers", [2, 3])
def test_large_layers_are_unpacked_at_the_same_time(
    layers: int, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_AT_ONCE", layers)
    everybody = threading.Barrier(layers, timeout=SECONDS)

    @contextlib.contextmanager
    def with_the_others(_: str) -> Iterator[None]:
        everybody.wait()
        yield

    around_umoci(monkeypatch, with_the_others)
    pod = pod_of(service, *(random_layer(LARGE, seed=seed) for seed in range(layers)))
    assert set(pod) == {b"random-%d" % seed for seed in range(layers)}


def test_small_layers_are_unpacked_one_after_the_other(service: LocalService, monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time = threading.Lock()

    @contextlib.contextmanager
    def alone(_: str) -> Iterator[None]:
        assert one_at_a_time.acquire(blocking=False)
        try:
            yield
        finally:
            one_at_a_time.release()

    around_umoci(monkeypatch, alone)
    assert len(pod_of(service, *(random_layer(1 << 20, seed=seed) for seed in range(4)))) == 4


def test_a_large_layer_is_unpacked_while_small_ones_below_it_are(
    service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, begun, small_seen = random_layer(LARGE), threading.Event(), threading.Event()

    @contextlib.contextmanager
    def meeting(digest: str) -> Iterator[None]:
        mine, theirs = (begun, small_seen) if digest == large.digest else (small_seen, begun)
        mine.set()
        assert theirs.wait(SECONDS)
        yield

    around_umoci(monkeypatch, meeting)
    assert {b"base", b"random-0"} <= set(pod_of(service, BASE, large))


APPLIED_AGAIN = {
    "a whiteout": [Entry("d/new"), whiteout("d/old")],
    "a hard link to a file below": [hardlink("d/new", "base"), Entry("x")],
    "a directory over a file": [directory("base"), Entry("base/x")],
}


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("case", APPLIED_AGAIN)
def test_a_layer_that_needs_its_parents_is_unpacked_over_them(
    case: str, service: LocalService, unpacked: list[str], tmp_path: Path
) -> None:
    needs_them, above = gzip_layer(APPLIED_AGAIN[case]), gzip_layer([Entry("above"), Entry("d/new", b"2")])
    pod = pod_of(service, BASE, needs_them, above)
    assert [unpacked.count(one.digest) for one in (BASE, needs_them, above)] == [1, 2, 1]
    assert without_times(pod) == without_times(over_parents(tmp_path / "other", BASE, needs_them, above))
    assert snapshots(service.root) == names_of(BASE, needs_them, above)


def without_times(found: dict[bytes, Node]) -> dict[bytes, tuple[object, ...]]:
    return {path: (node.kind, node.mode, node.owner, node.content, node.links) for path, node in found.items()}


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("case", APPLIED_AGAIN)
def test_without_fuse_everything_is_the_same(
    case: str, service: LocalService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = BASE, random_layer(3 << 20), gzip_layer(APPLIED_AGAIN[case]), random_layer(3 << 20, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(fuse_file, "_DEVICE", "/nowhere/fuse")
        pod = pod_of(service, *layers)
    assert without_times(pod) == without_times(over_parents(tmp_path / "other", *layers))


def failure(service: LocalService, *layers: Layer) -> tuple[str, int, str]:
    with pytest.raises(MicropodError) as caught:
        pod_of(service, *layers)
    return caught.value.code, caught.value.exit_status, caught.value.message.replace(str(service.root), "STORE")


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_refused_over_its_parents_is_refused_apart_with_the_same_words(
    hostile: Hostile, service: LocalService, tmp_path: Path
) -> None:
    layers = BASE, *map(gzip_layer, hostile.layers)
    (tmp_path / "other").mkdir(mode=0o700)
    other = LocalService(tmp_path / "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "_SMALLEST_APART", 1 << 60)
        expected = failure(other, *layers)
    assert failure(service, *layers, gzip_layer([Entry("above")])) == expected
    assert snapshots(service.root) == snapshots(other.root) == names_of(*layers[:-1])
    assert service.list_pods() == []


BROKEN = gzip_layer([hardlink("h", "nowhere")])


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("position", range(3))
def test_a_layer_that_cannot_be_unpacked_keeps_those_above_it_from_being_snapshots(
    position: int, service: LocalService
) -> None:
    layers = [BASE, random_layer(1 << 20), random_layer(1 << 20, seed=1)]
    below = layers[:position]
    layers.insert(position, BROKEN)
    code, status, _ = failure(service, *layers)
    assert (code, status) == ("broken-link", 7)
    assert snapshots(service.root) == names_of(*below)
    assert len(pod_of(service, *below, layers[-1])) == 3 * (position > 0) + max(position - 1, 0) + 1


@pytest.mark.usefixtures("apart")
def test_a_program_that_fails_apart_only_is_not_needed_there(
    service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = gzip_layer([Entry("x")])
    failures = [ToolError("killed", code="tool-killed")]

    @contextlib.contextmanager
    def failing_once(digest: str) -> Iterator[None]:
        if digest == failing.digest and failures:
            raise failures.pop()
        yield

    around_umoci(monkeypatch, failing_once)
    assert b"x" in pod_of(service, BASE, failing)


@pytest.mark.usefixtures("apart")
def test_a_snapshot_that_cannot_be_made_durable_is_told_of_and_leaves_nothing(
    service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at a bad time: when the next one is about to be made over its files."""
    in_the_middle, files = threading.Event(), Commits.files

    def fail(_: Path) -> None:
        assert in_the_middle.wait(SECONDS)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def failed_files(self: Commits, chain: Sequence[ChainId]) -> Iterator[tuple[Path, ...]]:
        if chain:
            in_the_middle.set()
            concurrent.futures.wait(self._begun)
        with files(self, chain) as found:
            yield found

    layers = [random_layer(LARGE, seed=seed) for seed in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(commits, "sync_filesystem", fail)
        patch.setattr(Commits, "files", failed_files)
        assert failure(service, *layers)[:2] == ("disk-full", DiskError("").exit_status)
    assert snapshots(service.root) == set()
    assert list((service.root / "tmp").iterdir()) == []
    assert len(pod_of(service, *layers)) == 5


@pytest.mark.usefixtures("apart")
def test_work_that_is_called_off_while_layers_are_unpacked_ends_and_leaves_nothing(
    service: LocalService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody, real = threading.Barrier(2, timeout=SECONDS), UnpackRoot.unpack_layer

    def called_off(self: UnpackRoot, blob: LayerBlob, *, cancellation: Cancellation) -> None:
        everybody.wait()
        cancellation.cancel()
        real(self, blob, cancellation=cancellation)

    layers = [random_layer(LARGE, seed=seed) for seed in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(making, "_AT_ONCE", 2)
        patch.setattr(UnpackRoot, "unpack_layer", called_off)
        with pytest.raises(CancelledError):
            pod_of(service, *layers)
    assert snapshots(service.root) < names_of(*layers)  # those that umoci was done with all the same
    assert list((service.root / "tmp").iterdir()) == []
    assert pod_of(service, *layers) == over_parents(tmp_path / "other", *layers)


def of_members(*members: Sequence[Entry], forged: int | None = None) -> Layer:
    """A layer of one gzip member for so many entries each; what the last says of its size may be a lie."""
    parts = [b"".join(entry.raw for entry in member) for member in members[:-1]] + [archive_of(members[-1])]
    content = b"".join(gzip.compress(part, 1, mtime=0) for part in parts)
    if forged is not None:
        content = content[:-4] + forged.to_bytes(4, "little")
    return Layer(GZIP_LAYER, content, diff_id=sha256_of(b"".join(parts)))


ZEROS = bytes(3 << 20)
GUESSES = {
    "what is said of the last member only": of_members([Entry("a", ZEROS), Entry("b")], [Entry("c", ZEROS)]),
    "much less than all": of_members([Entry("a", ZEROS), Entry("b", ZEROS)], [Entry("c", bytes(1 << 20))]),
    "almost all": of_members([Entry("a")], [Entry("b", ZEROS), Entry("d/x")]),
    "all, in the last member": of_members([], [Entry("a", ZEROS), Entry("d/x", b"1")]),
    "nothing of what is in many members": layer(
        [Entry("a", ZEROS), Entry("b", b"1"), directory("d", mode=0o700)], compression="gzip-members"
    ),
    "nothing where there is no gzip": layer({"a": ZEROS, "d/x": b"1"}, compression="zstd"),
    "nothing in what is not compressed": layer({"a": ZEROS, "d/x": b"1"}, compression="none"),
}
"""By what may be guessed from the last bytes of the size that a layer unpacks to."""


@pytest.mark.parametrize("is_apart", [True, False], ids=["apart", "over the parents"])
@pytest.mark.parametrize("guess", GUESSES)
def test_a_wrong_guess_of_how_much_a_layer_is_changes_nothing(
    guess: str, *, is_apart: bool, service: LocalService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = GUESSES[guess]
    monkeypatch.setattr(making, "_SMALLEST_APART", 0 if is_apart else 1 << 60)
    pod = pod_of(service, BASE, made, gzip_layer([Entry("top")]))
    assert without_times(pod) == without_times(over_parents(tmp_path / "other", BASE, made, gzip_layer([Entry("top")])))
    assert pod[b"a"].content in (ZEROS, b"")


@pytest.mark.parametrize("size", [512, 64 << 20, (1 << 32) - 512], ids=["a block", "more than there is", "very much"])
def test_a_layer_that_lies_of_its_size_is_damaged(
    size: int, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = of_members([Entry("a", ZEROS)], [Entry("b", ZEROS)], forged=size)
    for smallest in (0, 1 << 60):
        monkeypatch.setattr(making, "_SMALLEST_APART", smallest)
        assert failure(service, BASE, made)[:2] == ("corrupt-layer", 7)
    assert snapshots(service.root) == names_of(BASE)


def test_umoci_starts_in_many_new_places_at_a_time(tmp_path: Path, program: Path) -> None:
    """A copy of a program that is still open, in a child that another thread has just forked, cannot be started."""
    made = stored(archive_of([Entry("a")]))
    blob = blob_of(made.content, made.diff_id, tmp_path)

    def unpack(number: int) -> bool:
        place = tmp_path / str(number)
        place.mkdir(mode=0o700)
        with UnpackRoots(place, umoci=program).root() as root:
            root.unpack_layer(blob)
            return (root.rootfs / "a").exists()

    with ThreadPoolExecutor(4) as executor:
        assert all(executor.map(unpack, range(100)))


TELL = """
import sys
from pathlib import Path
from micropod_img.rootfs import making
from tests.rootfs.test_trees_in_user_namespaces import tell_differences
making._SMALLEST_APART = 0
tell_differences(Path(sys.argv[1]), Path(sys.argv[2]), "overlay-userxattr")
"""


@pytest.mark.slow
def test_pods_of_layers_apart_have_the_trees_that_they_describe_in_a_user_namespace(
    store_root: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told.json"
    assert run_python(TELL, store_root, told) == 0
    assert json.loads(told.read_text()) == {"owners": "owner-not-mapped"}  # the namespace has 65,536 of them
