from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micropod_img.digest import sha256_of
from micropod_img.errors import IntegrityError, MicropodError, UnsafeError
from micropod_img.limits import Limits
from tests.rootfs.archives import AMBIGUOUS, USUAL
from tests.rootfs.gate_checks import MIB, check, check_stored, refusal, sparse
from tests.rootfs.tar_layers import BLOCK, END, GNU, extended, header, long_name
from tests.support.layers import Compression, layer
from tests.support.processes import require_program, run

PARTS = {**USUAL, **AMBIGUOUS, "the end": END, "half an end": bytes(BLOCK)}
CHANGES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, BLOCK - 1), st.integers(0, 255)), max_size=6)


@pytest.mark.parametrize("archive", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_readers_understand_differently_is_refused(archive: bytes) -> None:
    with pytest.raises(UnsafeError) as caught:
        check(archive + END)
    assert caught.value.code == "ambiguous-layer"


@pytest.mark.parametrize(
    "archive",
    [
        extended({b"path": b"a/../b"}) + header(b"innocent"),
        long_name(b"a/../b\0") + header(b"innocent", magic=GNU),
        header(b"../b", prefix=b"a"),
        extended(sparse(name=b"a/../b")) + header(b"innocent", size=512) + b"0\n".ljust(512, b"\0"),
    ],
    ids=["extended header", "long name", "prefix", "sparse"],
)
def test_a_name_is_looked_at_wherever_it_is_written(archive: bytes) -> None:
    assert "'a/../b' leads out of the root" in refusal(archive)


def test_a_hidden_name_does_not_count() -> None:
    assert check(extended({b"path": b"innocent"}) + header(b"../b") + END).entries == 1


def test_a_header_without_a_name_is_refused_with_its_place() -> None:
    message = refusal(header(b"a\n") + header(b"b", checksum=bytes(8)))
    assert r"what follows entry 'a\n' has a header whose checksum is wrong" in message
    assert "what follows its start" in refusal(header(b"b", checksum=bytes(8)))


def test_odd_headers_of_damaged_bytes_are_an_error_of_integrity() -> None:
    with pytest.raises(IntegrityError) as caught:
        check_stored(header(checksum=bytes(8)), sha256_of(b"something else"))
    assert caught.value.code == "diff-id-mismatch"


@pytest.mark.parametrize("archive", USUAL.values(), ids=USUAL.keys())
@pytest.mark.parametrize("end", [END, bytes(BLOCK), b"", bytes(20 * BLOCK)], ids=["end", "half", "none", "record"])
def test_what_honest_writers_write_passes(archive: bytes, end: bytes) -> None:
    assert check(archive + end).diff_id == sha256_of(archive + end)


@pytest.mark.parametrize("archive_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_passes(archive_format: int) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=archive_format) as archive:
        for root in (Path(os.__file__).parent / "json", Path(__file__).parent):
            archive.add(root, recursive=True)
    assert check(made.getvalue()).entries > 10


@pytest.mark.parametrize("archive_format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes_passes(archive_format: str, tmp_path: Path) -> None:
    tar = require_program("tar", package="tar")
    (tmp_path / "deep" / ("d" * 40)).mkdir(parents=True)
    (tmp_path / "deep" / ("d" * 40) / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("deep")
    (tmp_path / "hard").hardlink_to(tmp_path / "deep" / ("d" * 40) / "file")
    if archive_format != "v7":
        os.mkfifo(tmp_path / "fifo")
    if archive_format not in ("v7", "ustar"):
        (tmp_path / ("n" * 200)).write_bytes(b"2")
        (tmp_path / "longlink").symlink_to("t" * 200)
    made = run(tar, "--create", f"--format={archive_format}", "--file", tmp_path / "made", "-C", tmp_path, ".")
    assert made.stderr.strip() in ("", f"{tar}: ./made: file is the archive; not dumped")
    assert check((tmp_path / "made").read_bytes()).entries >= 5


def test_a_sparse_file_as_gnu_tar_writes_it_now_passes(tmp_path: Path) -> None:
    tar = require_program("tar", package="tar")
    with (tmp_path / "holes").open("wb") as holes:
        holes.seek(3 * MIB)
        holes.write(b"end")
    run(tar, "--create", "--sparse", "--format=posix", "--file", tmp_path / "made", "-C", tmp_path, "holes")
    assert (tmp_path / "made").stat().st_size < MIB
    assert check((tmp_path / "made").read_bytes()).unpacked_size == 3 * MIB + 3


class TestAnything:
    """Whatever it is given, the gate ends with a report or with an error that has an exit status."""

    @staticmethod
    def look(blob: bytes) -> None:
        try:
            report = check_stored(blob, sha256_of(blob), Limits(max_size=8 * MIB, ratio_floor=MIB))
        except MicropodError as error:
            assert error.exit_status in (7, 12)  # noqa: PT017
            assert error.message.isprintable()  # noqa: PT017
        else:
            assert report.diff_id == sha256_of(blob)

    @given(st.binary(max_size=4 * BLOCK))
    @settings(deadline=None)
    def test_of_any_bytes(self, blob: bytes) -> None:
        self.look(blob)

    @given(st.lists(st.sampled_from(sorted(PARTS)), max_size=5), CHANGES, st.booleans())
    @settings(deadline=None, max_examples=500)
    def test_of_archives_with_some_bytes_changed(
        self,
        names: list[str],
        changes: list[tuple[int, int, int]],
        right_checksum: bool,  # noqa: FBT001
    ) -> None:
        archive = bytearray(b"".join(PARTS[name] for name in names))
        for number, position, value in changes:
            start = number * BLOCK
            if start + BLOCK <= len(archive):
                archive[start + position] = value
                if right_checksum:
                    total = sum(archive[start : start + BLOCK]) - sum(archive[start + 148 : start + 156]) + 256
                    archive[start + 148 : start + 156] = b"%06o\0 " % total
        self.look(bytes(archive))

    @given(st.sampled_from(["gzip", "gzip-members", "estargz", "zstd", "zstd-chunked"]), st.data())
    @settings(deadline=None)
    def test_of_compressed_layers_with_some_bytes_changed(self, compression: Compression, data: st.DataObject) -> None:
        blob = bytearray(layer({"a": b"1" * 3000, "b": b"2"}, compression=compression).content)
        for _ in range(data.draw(st.integers(1, 4))):
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
        self.look(bytes(blob[: data.draw(st.integers(0, len(blob)))]))
