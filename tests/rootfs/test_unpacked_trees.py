"""What comes out of umoci is what the layers describe, and nothing else."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from micropod_img.errors import IntegrityError, ToolError, UnsafeError
from micropod_img.rootfs import layer_stream, tar_headers
from micropod_img.rootfs.gate import check_layer
from tests.rootfs.faithful import FAITHFUL, MTIME, as_described
from tests.rootfs.gate_checks import MIB
from tests.rootfs.tar_layers import (
    GNU,
    GZIP_LAYER,
    V7,
    base256,
    extended,
    header,
    long_name,
    stored,
    tree,
)
from tests.rootfs.unpacking import archive_of, as_root, blob_of, new_root, unpack
from tests.support.layers import Compression, Entry, directory, hardlink, layer, symlink, whiteout
from tests.support.processes import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.rootfs.umoci import UnpackRoot
    from tests.rootfs.faithful import Archives, Tree


@as_root
@pytest.mark.parametrize("archives_and_tree", FAITHFUL.values(), ids=FAITHFUL.keys())
def test_an_image_becomes_the_tree_that_it_describes(
    archives_and_tree: tuple[Archives, Tree], root: UnpackRoot, tmp_path: Path
) -> None:
    archives, expected = archives_and_tree
    assert as_described(unpack(root, tmp_path, *archives), expected) == expected


@as_root
def test_the_root_directory_gets_what_the_layer_says_of_it(root: UnpackRoot, tmp_path: Path) -> None:
    unpack(root, tmp_path, [header(b"./", b"5", mode=0o711, uid=7, mtime=MTIME)])
    status = root.rootfs.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, int(status.st_mtime)) == (0o711, 7, MTIME)


def test_the_root_directory_of_an_image_that_does_not_list_it_is_open_to_all(root: UnpackRoot, tmp_path: Path) -> None:
    unpack(root, tmp_path, [Entry("a")])
    assert stat.S_IMODE(root.rootfs.stat().st_mode) == 0o755


def test_implied_directories_do_not_depend_on_the_umask(root: UnpackRoot, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert unpack(root, tmp_path, [Entry("a/b")])[b"a"].mode == 0o755
    finally:
        os.umask(before)


@pytest.mark.parametrize("compression", ["none", "gzip", "gzip-members", "estargz", "zstd", "zstd-chunked"])
def test_every_compression_is_unpacked(compression: Compression, root: UnpackRoot, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    made = layer({"dir/file": content, "b": b"2"}, compression=compression)
    root.unpack_layer(blob_of(made.content, made.diff_id, tmp_path))
    assert (root.rootfs / "dir/file").read_bytes() == content


def test_the_same_layer_twice_and_an_empty_layer_are_unpacked(root: UnpackRoot, tmp_path: Path) -> None:
    assert set(unpack(root, tmp_path, [Entry("a")], [], [whiteout("a")], [Entry("a")])) == {b"a"}


def test_an_image_of_127_layers_is_unpacked(root: UnpackRoot, tmp_path: Path) -> None:
    assert len(unpack(root, tmp_path, *([Entry(f"f{n}")] for n in range(127)))) == 127


def test_layers_are_unpacked_one_after_the_other_over_what_is_there(root: UnpackRoot, tmp_path: Path) -> None:
    for parts in ([Entry("a"), Entry("b")], [whiteout("a"), Entry("c")]):
        made = stored(archive_of(parts))
        root.unpack_layer(blob_of(made.content, made.diff_id, tmp_path))
    assert set(tree(root.rootfs)) == {b"b", b"c"}


@contextlib.contextmanager
def overlay(lower: Path, upper: Path, mount_point: Path) -> Iterator[None]:
    work = upper.with_name("overlay-work")
    for path in (lower, upper, work):
        path.mkdir(exist_ok=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work},index=off,metacopy=off,redirect_dir=nofollow"
    mounted = subprocess.run(
        ["/usr/bin/mount", "-t", "overlay", "overlay", "-o", options, mount_point], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        missing(f"no overlay can be mounted here: {mounted.stderr!r}")
    try:
        yield
    finally:
        subprocess.run(["/usr/bin/umount", mount_point], check=True)


@as_root
def test_a_layer_applied_to_an_overlay_leaves_exactly_its_changes(
    root: UnpackRoot, tmp_path: Path, program: Path
) -> None:
    base = new_root(tmp_path / "base", program)
    unpack(base, tmp_path, [directory("d", mode=0o700), Entry("d/a"), Entry("gone"), symlink("s", "d"), Entry("same")])
    made = stored(archive_of([whiteout("gone"), Entry("s/new", b"1"), Entry("d/.wh.a"), hardlink("h", "same")]))
    blob = blob_of(made.content, made.diff_id, tmp_path)
    with overlay(base.rootfs, tmp_path / "upper", root.rootfs):
        root.unpack_layer(blob)
        assert set(tree(root.rootfs)) == {b"d", b"d/new", b"s", b"same", b"h"}
    left = tree(tmp_path / "upper")
    assert set(left) == {b"d", b"d/a", b"d/new", b"gone", b"h", b"same"}
    assert left[b"gone"].kind == left[b"d/a"].kind == "character device"
    assert left[b"gone"].device == left[b"d/a"].device == 0
    assert left[b"d"].mode == 0o700


NAME = st.lists(st.sampled_from([b"a", b"b", b"/", b"./", b"\xff", b"\0"]), min_size=1, max_size=4).map(b"".join)
NUMBER = st.sampled_from([b"00000000001\0", b"          1 ", b"1\0          ", b"1           ", base256(1, 12)])
FIELDS: dict[str, st.SearchStrategy[bytes]] = {
    "magic": st.sampled_from([b"ustar\x0000", GNU, V7, b"ustar\0\0\0"]),
    "prefix": st.one_of(st.just(b""), NAME),
    "link": NAME,
    "mtime": NUMBER,
}
META = st.one_of(
    st.just(b""),
    st.just(b""),
    st.dictionaries(st.sampled_from([b"path", b"linkpath", b"comment"]), NAME).map(extended),
    st.just(extended({b"size": b"1"})),
    NAME.map(long_name),
    st.tuples(NAME.map(long_name), NAME.map(lambda name: long_name(name, b"K"))).map(b"".join),
)
ENTRY = st.one_of(
    st.builds(header, NAME, st.sampled_from([b"0", b"\0", b"5", b"2", b"1"]), **FIELDS),
    st.builds(
        lambda name, size, magic: header(name, size=size, magic=magic) + bytes(512), NAME, NUMBER, FIELDS["magic"]
    ),
)
PART = st.one_of(st.tuples(META, ENTRY).map(b"".join), st.tuples(META, ENTRY).map(b"".join), META, st.just(bytes(512)))


@given(parts=st.lists(PART, min_size=1, max_size=4))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_passes_the_gate_is_what_umoci_unpacks(parts: list[bytes], program: Path) -> None:
    """The two read an archive the same way: every name that umoci makes is one that the gate has seen."""
    made = stored(archive_of(parts))
    with contextlib.suppress(UnsafeError), tempfile.TemporaryDirectory() as name:
        check_layer(io.BytesIO(made.content), digest=made.digest, media_type=GZIP_LAYER, diff_id=made.diff_id)
        stream = layer_stream.LayerStream(
            io.BytesIO(made.content), digest=made.digest, max_size=MIB, max_ratio=1000, ratio_floor=MIB
        )
        seen = {
            b"/".join(part for part in entry.name.split(b"/") if part not in (b"", b"."))
            for entry in tar_headers.read_entries(stream)
        }
        event("passed")
        root = new_root(Path(name) / "work", program)
        try:
            root.unpack_layer(blob_of(made.content, made.diff_id, Path(name)))
        except (UnsafeError, IntegrityError, ToolError) as error:
            assert "link: " in (error.detail or "") or "not a directory" in (error.detail or "")  # noqa: PT017
            return
        unpacked = set(tree(root.rootfs))
        implied = {path.rsplit(b"/", depth)[0] for path in seen for depth in range(1, path.count(b"/") + 1)}
        assert unpacked <= seen | implied
        assert seen - {b""} <= unpacked
