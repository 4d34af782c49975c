from __future__ import annotations

import contextlib
import gc
import gzip
import io
import os
import sys
import weakref
from typing import TYPE_CHECKING

import pytest

from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.digest import sha256_of
from micropod_img.errors import DiskError, IntegrityError, UnsafeError
from micropod_img.limits import Limits
from micropod_img.rootfs.gate import check_layer
from micropod_img.rootfs.layer_stream import LayerStream
from tests.rootfs.gate_checks import MIB, SOME_DIGEST, Endless, check, check_stored
from tests.rootfs.tar_layers import BLOCK, END, GZIP_LAYER, extended, file, header
from tests.support.layers import Compression, Entry, directory, hardlink, layer, symlink, whiteout
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("compression", ["none", "gzip", "gzip-members", "estargz", "zstd", "zstd-chunked"])
@pytest.mark.parametrize("docker", [False, True])
def test_every_compression_passes(compression: Compression, docker: bool, tmp_path: Path) -> None:  # noqa: FBT001
    entries = [directory("d"), Entry("d/f", os.urandom(700_000)), symlink("s", "d"), hardlink("h", "d/f")]
    made = layer([*entries, whiteout("gone")], compression=compression, docker=docker)
    blob = tmp_path / "blob"
    blob.write_bytes(made.content)
    report = check_layer(blob, digest=made.digest, media_type=made.media_type, diff_id=made.diff_id)
    assert report.diff_id == made.diff_id
    assert report.unpacked_size >= 700_000


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_wrong_media_type_does_not_matter(compression: Compression) -> None:
    made = layer({"a": b"1"}, compression=compression)
    for media_type in (GZIP_LAYER, "application/vnd.docker.image.rootfs.diff.tar"):
        report = check_layer(io.BytesIO(made.content), digest=made.digest, media_type=media_type, diff_id=made.diff_id)
        assert report.entries == 1


# The names of tests must not depend on when they were collected: two workers compare theirs, and gzip writes the time.
@pytest.mark.parametrize(
    "blob",
    [b"", gzip.compress(b"", mtime=0), gzip.compress(END, mtime=0), END, END[:BLOCK]],
    ids=["no bytes", "gzip of nothing", "gzip of an end", "an end", "half an end"],
)
def test_a_layer_of_nothing_passes(blob: bytes) -> None:
    archive = gzip.decompress(blob) if blob.startswith(b"\x1f\x8b") else blob
    assert check_stored(blob, sha256_of(archive)).entries == 0


def test_another_diff_id_is_an_error() -> None:
    with pytest.raises(IntegrityError) as caught:
        check_stored(gzip.compress(END), sha256_of(b"something else"))
    assert (caught.value.exit_status, caught.value.code) == (7, "diff-id-mismatch")
    assert SOME_DIGEST in caught.value.message


def test_bytes_after_the_end_of_the_archive_count_for_the_diff_id() -> None:
    assert check(END + bytes(9 * MIB)).diff_id == sha256_of(END + bytes(9 * MIB))


@pytest.mark.parametrize("compression", ["gzip", "gzip-members", "estargz", "zstd", "zstd-chunked"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_truncated_layer_is_an_error(compression: Compression, kept: float) -> None:
    whole = layer({f"file{n}": os.urandom(500) for n in range(20)}, compression=compression)
    with pytest.raises(IntegrityError) as caught:
        check_stored(whole.content[: int(len(whole.content) * kept)], whole.diff_id)
    assert caught.value.exit_status == 7
    assert SOME_DIGEST in caught.value.message


@pytest.mark.parametrize("kept", [1, 511, 513, 700, 1023])
def test_an_archive_that_ends_in_the_middle_is_an_error(kept: int) -> None:
    with pytest.raises(IntegrityError, match="ends in the middle of its archive"):
        check(file(b"a", b"0" * 512)[:kept])


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: blob[:30] + b"\xff\xff\xff\xff" + blob[34:],
        lambda blob: blob[:-8] + b"\0\0\0\0" + blob[-4:],
        lambda blob: blob[:-4] + b"\0\0\0\1",
        lambda blob: blob + b"garbage" * 9,
        lambda blob: blob[:3] + b"\x08" + blob[4:10] + b"a" * MIB + b"\0" + blob[10:],
    ],
    ids=["data", "checksum", "length", "something after it", "a name of a megabyte"],
)
def test_a_damaged_gzip_layer_is_an_error(damage: Callable[[bytes], bytes]) -> None:
    archive = file(b"a", os.urandom(3000)) + END
    with pytest.raises(IntegrityError):
        check_stored(damage(gzip.compress(archive)), sha256_of(archive))


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: blob[:30] + b"\xff\xff\xff\xff" + blob[34:],
        lambda blob: blob + b"garbage",
        lambda _: b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
        lambda _: b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(100),
    ],
    ids=["data", "something after it", "header", "a window of gigabytes"],
)
def test_a_damaged_zstd_layer_is_an_error(damage: Callable[[bytes], bytes]) -> None:
    whole = layer({"file": os.urandom(3000)}, compression="zstd")
    with pytest.raises(IntegrityError):
        check_stored(damage(whole.content), whole.diff_id)


def test_a_layer_that_cannot_be_read_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        check_layer(tmp_path, digest=SOME_DIGEST, media_type=GZIP_LAYER, diff_id=SOME_DIGEST)


def test_the_look_can_be_called_off() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(CancelledError):
        check_layer(
            Endless(header(b"a")),
            digest=SOME_DIGEST,
            media_type=GZIP_LAYER,
            diff_id=SOME_DIGEST,
            cancellation=cancellation,
        )


@pytest.mark.parametrize(
    ("piece", "limits", "code"),
    [
        (header(b"again"), Limits(max_entries=5000), "layer-limit"),
        (extended({b"comment": b"a" * 100_000}) + header(b"a"), Limits(metadata_size=5 * MIB), "layer-limit"),
        (file(b"again", b"0" * 100_000), Limits(max_size=10 * MIB), "layer-limit"),
        (bytes(BLOCK), Limits(max_size=MIB, max_entries=100, metadata_size=MIB), "archive-too-large"),
        (gzip.compress(b"") * 10_000, Limits(), "padded-layer"),
        (b"\x50\x2a\x4d\x18\xff\xff\0\0" + bytes(0xFFFF), Limits(), "padded-layer"),
    ],
    ids=["entries", "extended headers", "files", "zeros", "empty gzip members", "skippable zstd frames"],
)
def test_a_stream_that_never_ends_is_refused(piece: bytes, limits: Limits, code: str) -> None:
    with pytest.raises(UnsafeError) as caught:
        check_layer(Endless(piece), digest=SOME_DIGEST, media_type=GZIP_LAYER, diff_id=SOME_DIGEST, limits=limits)
    assert caught.value.code == code


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_decompression_bomb_is_refused_while_it_unpacks(compression: Compression) -> None:
    bomb = layer({"zeros": bytes(40 * MIB)}, compression=compression)
    with pytest.raises(UnsafeError) as caught:
        check_stored(bomb.content, bomb.diff_id, Limits(max_ratio=100, ratio_floor=10 * MIB))
    assert caught.value.code == "decompression-bomb"
    assert check_stored(bomb.content, bomb.diff_id, Limits(max_ratio=100)).unpacked_size == 40 * MIB


@pytest.mark.parametrize("compression", ["none", "gzip", "gzip-members", "estargz", "zstd", "zstd-chunked"])
@pytest.mark.parametrize("kept", [1.0, 0.5], ids=["whole", "cut"])
def test_a_stream_that_was_read_is_freed(kept: float, compression: Compression) -> None:
    content = layer({"a": b"1" * 3000}, compression=compression).content
    stream = LayerStream(
        io.BytesIO(content[: int(len(content) * kept)]),
        digest=SOME_DIGEST,
        max_size=MIB,
        max_ratio=100,
        ratio_floor=MIB,
    )
    with contextlib.suppress(IntegrityError):
        stream.drain()
    left = weakref.ref(stream)
    del stream
    gc.collect()
    assert left() is None


def test_memory_stays_small_whatever_the_layer_holds(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    with gzip.open(blob, "wb", compresslevel=1) as stream:
        stream.write(header(b"big", size=600 * MIB))
        for _ in range(600):
            stream.write(bytes(MIB))
        stream.write(END)
    grown_kib, code = checked_elsewhere(f"pathlib.Path({str(blob)!r})")
    assert code == "diff-id-mismatch"
    assert grown_kib < 8 * 1024


def test_memory_stays_small_in_two_gibibytes_of_extended_headers() -> None:
    """They are made as they are read, and refused when they are 256 MiB together."""
    piece = "extended({b'comment': b'a' * ((1 << 20) - 1000)}) + header(b'a')"
    grown_kib, code = checked_elsewhere(f"Endless({piece})")
    assert code == "layer-limit"
    assert grown_kib < 16 * 1024


def checked_elsewhere(layer: str) -> tuple[int, str]:
    """Let the gate look at a layer in a process of its own; return by how many KiB that grew, and the error's code."""
    program = (
        "import resource, sys, pathlib\n"
        "from micropod_img.rootfs.gate import check_layer\n"
        "from micropod_img.errors import MicropodError\n"
        "from tests.rootfs.gate_checks import Endless\n"
        "from tests.rootfs.tar_layers import extended, header\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        f"    check_layer({layer}, digest='x', media_type={GZIP_LAYER!r}, diff_id='y')\n"
        "except MicropodError as error:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error.code)\n"
    )
    grown, code = run(sys.executable, "-c", program).stdout.split()
    return int(grown), code
