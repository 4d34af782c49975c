from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, get_args

import pytest

from tests.support.layers import (
    MIB,
    Compression,
    Entry,
    Layer,
    directory,
    hardlink,
    layer,
    random_layer,
    symlink,
    whiteout,
)
from tests.support.processes import require_program

if TYPE_CHECKING:
    from micropod_img.digest import Digest

ENTRIES = (
    directory("etc"),
    Entry("etc/motd", b"welcome\n" * 2000),
    Entry("etc/" + "long-name" * 30, b"of a PAX header"),
    symlink("etc/issue", "motd"),
    hardlink("etc/also", "etc/motd"),
    whiteout("etc/gone"),
)
NAMES = ["etc", "etc/motd", "etc/" + "long-name" * 30, "etc/issue", "etc/also", "etc/.wh.gone"]


def unpacked(made: Layer) -> bytes:
    """Decompress with gzip or the zstd program, neither of which had a part in making it."""
    if made.media_type.endswith("zstd"):
        program = require_program("zstd", package="zstd")
        return subprocess.run([program, "-dc"], input=made.content, capture_output=True, check=True).stdout
    return gzip.decompress(made.content) if made.media_type.endswith("gzip") else made.content


def digest_of(content: bytes) -> Digest:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"  # type: ignore[return-value]


@pytest.mark.parametrize("compression", get_args(Compression))
def test_a_layer_unpacks_to_its_entries_and_its_diff_id(compression: Compression) -> None:
    made = layer(ENTRIES, compression=compression)
    tar = unpacked(made)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        names = [name for name in archive.getnames() if name != "stargz.index.json"]
        assert archive.extractfile("etc/motd") is not None
    assert names == NAMES
    assert digest_of(tar) == made.diff_id
    assert digest_of(made.content) == made.digest


@pytest.mark.parametrize(
    ("compression", "docker", "urls", "media_type"),
    [
        ("gzip", False, (), "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("estargz", False, (), "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd-chunked", False, (), "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("none", False, (), "application/vnd.oci.image.layer.v1.tar"),
        ("gzip", True, (), "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        ("zstd", True, (), "application/vnd.docker.image.rootfs.diff.tar.zstd"),
        ("none", True, (), "application/vnd.docker.image.rootfs.diff.tar"),
        ("gzip", True, ("http://x/",), "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        ("gzip", False, ("http://x/",), "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
    ],
)
def test_a_layer_has_the_media_type_of_its_format(
    compression: Compression, *, docker: bool, urls: tuple[str, ...], media_type: str
) -> None:
    assert layer({"a": b""}, compression=compression, docker=docker, urls=urls).media_type == media_type


def test_gzip_members_and_zstd_frames_are_several() -> None:
    gzip_magic, zstd_magic = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
    assert layer(ENTRIES, compression="gzip").content.count(gzip_magic) == 1
    assert layer(ENTRIES, compression="gzip-members").content.count(gzip_magic) == len(ENTRIES) + 1
    assert layer(ENTRIES, compression="zstd").content.count(zstd_magic) == 1
    assert layer(ENTRIES, compression="zstd-chunked").content.count(zstd_magic) > len(ENTRIES)


def test_the_footer_of_an_estargz_layer_says_where_its_toc_is() -> None:
    made = layer(ENTRIES, compression="estargz")
    footer = made.content[-51:]
    offset = int(footer[16:32], 16)
    assert footer[32:38] == b"STARGZ"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(made.content[offset:]))) as archive:
        stream = archive.extractfile("stargz.index.json")
        assert stream is not None
        toc = stream.read()
    assert [entry["name"] for entry in json.loads(toc)["entries"]] == NAMES
    assert made.annotations == {"containerd.io/snapshot/stargz/toc.digest": digest_of(toc)}


def test_the_annotations_of_a_zstd_chunked_layer_say_where_its_toc_is() -> None:
    made = layer(ENTRIES, compression="zstd-chunked")
    checksum, position = made.annotations.values()
    offset, length = map(int, position.split(":")[:2])
    assert digest_of(made.content[offset : offset + length]) == checksum


def test_a_layer_made_twice_is_the_same() -> None:
    assert layer(ENTRIES).digest == layer(ENTRIES).digest
    assert random_layer(MIB, seed=3).digest == random_layer(MIB, seed=3).digest


def test_a_random_layer_does_not_compress_and_depends_on_its_seed() -> None:
    made = random_layer(MIB)
    assert len(gzip.compress(made.content)) > MIB
    assert made.digest != random_layer(MIB, seed=1).digest
