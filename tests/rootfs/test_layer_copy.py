"""The uncompressed bytes that the gate keeps for umoci."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from micropod_img.digest import sha256_of
from micropod_img.rootfs import layer_copy, umoci
from micropod_img.rootfs.layer_copy import LayerCopy
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import tree
from tests.rootfs.unpacking import as_root
from tests.support.images import image
from tests.support.layers import Entry, layer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.layers import Compression


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    made = LocalService(store_root)
    yield made
    made.end()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[umoci.LayerBlob]:
    """What umoci was given, in order, with its bytes checked."""
    blobs: list[umoci.LayerBlob] = []
    real = umoci.UnpackRoot.unpack_layer

    def looking(self: umoci.UnpackRoot, blob: umoci.LayerBlob, **arguments: object) -> None:
        path, digest = blob.readable
        assert sha256_of(path.read_bytes()) == digest
        blobs.append(blob)
        real(self, blob, **arguments)  # type: ignore[arg-type]  # its only one is handed on as it is

    monkeypatch.setattr(umoci.UnpackRoot, "unpack_layer", looking)
    return blobs


def test_a_copy_holds_what_it_was_given(tmp_path: Path) -> None:
    copy = LayerCopy(tmp_path / "copy")
    copy.write(b"one")
    copy.write(b"two")
    path = copy.finish()
    assert path is not None
    assert path.read_bytes() == b"onetwo"


def test_a_copy_of_nothing_is_none(tmp_path: Path) -> None:
    assert LayerCopy(tmp_path / "copy").finish() is None
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_becomes_too_large_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_copy, "LARGEST", 5)
    copy = LayerCopy(tmp_path / "copy")
    for _ in range(3):
        copy.write(b"123")
    assert copy.finish() is None
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_the_disk_does_not_take_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = LayerCopy(tmp_path / "copy")
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda _descriptor, chunk: len(chunk) - 1)
        copy.write(b"much")
    copy.write(b"more")
    assert copy.finish() is None
    assert list(tmp_path.iterdir()) == []


def test_there_is_no_copy_where_the_room_is_needed_for_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=layer_copy.LARGEST, f_frsize=1))
    copy = LayerCopy(tmp_path / "copy")
    copy.write(b"much")
    assert copy.finish() is None


@as_root
@pytest.mark.parametrize(
    ("compression", "copied"), [("gzip", True), ("gzip-members", True), ("zstd", True), ("none", False)]
)
def test_umoci_inflates_nothing_that_the_gate_has_inflated(
    compression: Compression,
    copied: bool,  # noqa: FBT001 - a parameter of the table
    service: LocalService,
    given: list[umoci.LayerBlob],
    store_root: Path,
) -> None:
    made = layer([Entry("\x1f\x8blooks like gzip", b"x" * 5000), Entry("b", b"y")], compression=compression)
    pod = service.create_pod(service.put(image([made])), policy="never")
    assert b"b" in tree(pod.rootfs)
    assert [blob.uncompressed is not None for blob in given] == [copied]
    assert list((store_root / "tmp").iterdir()) == []


@as_root
def test_a_layer_that_is_unpacked_twice_is_not_copied(service: LocalService, given: list[umoci.LayerBlob]) -> None:
    twice = [Entry("a", b"1")]
    service.create_pod(service.put_layers(twice, [Entry(".wh.a")], twice), policy="never")
    assert [blob.uncompressed is not None for blob in given] == [False, True, False]
