from __future__ import annotations

import contextlib
import gc
import gzip
import io
import os
import random
import struct
import sys
import weakref
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANDOM = random.Random(0).randbytes(2 * MIB)  # noqa: S311 - no secret
ZEROS = bytes(2 * MIB)


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


class Told:
    """What a gate tells of what has passed, and that it is not too much.

    Args:
        blob: The layer as it is stored.
    """

    def __init__(self, blob: bytes) -> None:
        self.content = bytearray()
        self.offset = 0
        self._blob = blob
        self._size = 0
        self._decompressor: zlib._Decompress | zstd.ZstdDecompressor | None = None

    def passed(self, chunk: bytes, offset: int) -> None:
        assert self.offset <= offset <= len(self._blob)
        self.content += chunk
        self._unpack(self._blob[self.offset : offset])
        self.offset = offset
        assert self._size <= len(self.content), "more could be read than has passed"

    def _unpack(self, piece: bytes) -> None:
        """Count to how much more is unpacked, by other libraries than the gate's."""
        is_gzip = self._blob.startswith(b"\x1f\x8b")
        if not is_gzip and self._blob[1:4] not in (b"\xb5\x2f\xfd", b"\x2a\x4d\x18"):
            self._size += len(piece)
            return
        while piece:
            if self._decompressor is None or self._decompressor.eof:
                self._decompressor = zlib.decompressobj(wbits=31) if is_gzip else zstd.ZstdDecompressor()
            self._size += len(self._decompressor.decompress(piece))
            piece = self._decompressor.unused_data if self._decompressor.eof else b""


def told_of(blob: bytes, archive: bytes, code: str = "") -> Told:
    """Let the gate look at a layer that may pass, or is refused, and return what it told; which is as it should be."""
    told = Told(blob)
    with pytest.raises(UnsafeError) if code else contextlib.nullcontext() as caught:
        check_layer(
            io.BytesIO(blob),
            digest=SOME_DIGEST,
            media_type=GZIP_LAYER,
            diff_id=sha256_of(archive),
            passed=told.passed,
        )
    if caught is None:
        assert told.content == archive
    else:
        assert caught.value.code == code
        assert archive.startswith(told.content)
    return told


def quick_gzip(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def in_pieces(content: bytes, compress: Callable[[bytes], bytes], nothing: bytes = b"") -> bytes:
    """Compress piece by piece, with something in between that unpacks to nothing."""
    return b"".join(compress(content[at : at + MIB // 2]) + nothing for at in range(0, len(content), MIB // 2))


def with_empty_blocks(content: bytes) -> bytes:
    compressor = zlib.compressobj(1, wbits=31)
    empty = b"\0\0\0\xff\xff" * 100_000  # RFC 1951, 3.2.4
    return (
        in_pieces(content, lambda piece: compressor.compress(piece) + compressor.flush(zlib.Z_FULL_FLUSH), empty)
        + compressor.flush()
    )


def with_long_names(content: bytes) -> bytes:
    """Compress to members whose headers have a name of nearly half a megabyte, which isal keeps in its buffer."""

    def member(piece: bytes) -> bytes:
        plain = quick_gzip(piece)
        return plain[:3] + b"\x08" + plain[4:10] + b"a" * 500_000 + b"\0" + plain[10:]

    return in_pieces(content, member)


SKIPPABLE = struct.pack("<II", 0x184D2A50, MIB // 2) + bytes(MIB // 2)
WAYS_TO_STORE: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "gzip": quick_gzip,
    "members": lambda content: in_pieces(content, quick_gzip),
    "stored members": lambda content: in_pieces(content, lambda piece: gzip.compress(piece, 0, mtime=0)),
    "empty members": lambda content: in_pieces(content, quick_gzip, quick_gzip(b"") * 3000),
    "empty blocks": with_empty_blocks,
    "long names": with_long_names,
    "zstd": zstd.compress,
    "frames": lambda content: in_pieces(content, zstd.compress),
    "empty frames": lambda content: in_pieces(content, zstd.compress, zstd.compress(b"") * 500),
    "skippable frames": lambda content: in_pieces(content, zstd.compress, SKIPPABLE),
}


# In real sizes: what is buffered before and behind a decompressor is what this is about.
@pytest.mark.parametrize("store", WAYS_TO_STORE.values(), ids=WAYS_TO_STORE)
@settings(deadline=None, max_examples=5)
@given(parts=st.lists(st.tuples(st.booleans(), st.integers(MIB, 2 * MIB)), min_size=3, max_size=6))
def test_no_more_of_what_is_stored_can_be_unpacked_than_has_passed(
    store: Callable[[bytes], bytes], parts: list[tuple[bool, int]]
) -> None:
    archive = b"".join(file(b"a", (RANDOM if is_random else ZEROS)[:size]) for is_random, size in parts) + END
    told_of(store(archive), archive)


@pytest.mark.parametrize("store", WAYS_TO_STORE.values(), ids=WAYS_TO_STORE)
def test_what_is_stored_can_be_read_soon_after_it_has_passed(store: Callable[[bytes], bytes]) -> None:
    archive = file(b"a", RANDOM + RANDOM) + END
    blob = store(archive)
    assert told_of(blob, archive).offset > len(blob) - 5 * MIB


@pytest.mark.parametrize("blocks", [254, 255, 256, 257])
@pytest.mark.parametrize("way", ["as it is", "gzip", "zstd"])
def test_the_header_of_what_is_refused_does_not_pass(blocks: int, way: str) -> None:
    good = file(b"good", RANDOM[: (5 * 256 + blocks - 1) * BLOCK])  # chunks are of 256 blocks
    archive = good + file(b"../bad", RANDOM) + END
    told = told_of(WAYS_TO_STORE[way](archive), archive, "unsafe-layer")
    assert len(good) - 300 * BLOCK < len(told.content) <= len(good)


@pytest.mark.parametrize("blocks", [252, 253, 254, 255, 256])
def test_the_header_of_what_is_refused_for_its_extended_header_does_not_pass(blocks: int) -> None:
    before = file(b"good", RANDOM[: (5 * 256 + blocks - 1) * BLOCK]) + extended({b"path": b"../bad"})
    archive = before + header(b"harmless") + END
    assert len(told_of(archive, archive, "unsafe-layer").content) <= len(before)


def test_nothing_passes_of_what_is_read_for_the_digest_only() -> None:
    good = file(b"good", RANDOM)
    archive = good + b"no header".ljust(BLOCK, b"!") + RANDOM
    assert len(told_of(archive, archive, "ambiguous-layer").content) <= len(good)
