"""Layers through the gate and umoci, and what came out."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING

import pytest

from micropod_img.digest import Digest, sha256_of
from micropod_img.rootfs.gate import check_layer
from micropod_img.rootfs.layer_blobs import LayerBlob
from micropod_img.rootfs.umoci import UnpackRoot
from tests.rootfs.tar_layers import END, GZIP_LAYER, Node, stored, tree
from tests.support.layers import Entry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and mounts take root")


def new_root(directory: Path, program: Path) -> UnpackRoot:
    directory.mkdir(mode=0o700)
    return UnpackRoot(directory, umoci=program)


def blob_of(content: bytes, diff_id: Digest, directory: Path) -> LayerBlob:
    digest = sha256_of(content)
    path = directory / digest.replace(":", "-")
    path.write_bytes(content)
    return LayerBlob(path, digest, diff_id)


def archive_of(parts: Sequence[Entry | bytes]) -> bytes:
    return b"".join(part.raw if isinstance(part, Entry) else part for part in parts) + END


def unpack(root: UnpackRoot, directory: Path, *archives: Sequence[Entry | bytes]) -> dict[bytes, Node]:
    """Let archives pass the gate and umoci, as an image of so many layers, and return what came out."""
    layers = [stored(archive_of(parts)) for parts in archives]
    for made in layers:
        check_layer(io.BytesIO(made.content), digest=made.digest, media_type=GZIP_LAYER, diff_id=made.diff_id)
    blobs = [blob_of(made.content, made.diff_id, directory) for made in layers]
    root.unpack_image(blobs, config=config_of(*(made.diff_id for made in layers)))
    return tree(root.rootfs)


def config_of(*diff_ids: str) -> bytes:
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
