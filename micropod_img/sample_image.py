"""A small image that is made on the spot, for the self-test."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING, Final

from micropod_img import media_types
from micropod_img.digest import Digest, hex_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from micropod_img.platforms import Platform

MOTD: Final = b"micropod-img works here\n"
"""What each of its platforms has in ``etc/motd``, in the lowest layer."""

_LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_LAYER_BYTES: Final = 1 << 20
_SEED: Final = b"micropod-img selftest"
_CREATED: Final = "2020-01-01T00:00:00Z"


def write_sample_layout(layout: Path, platforms: Sequence[Platform]) -> None:
    """Write an OCI image layout (image-spec, image-layout.md) with an image of three layers for each platform.

    The lowest layer is shared by all of them.

    Args:
        layout: A directory that does not exist.
        platforms: What there are images for.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    base = _tar({"etc/motd": MOTD, "usr/share/noise": _noise(b"base")})
    manifests = []
    for platform in platforms:
        name = str(platform).encode()
        layers = (base, _tar({"etc/platform": name}), _tar({"usr/bin/noise": _noise(name)}))
        manifests.append({**_write_image(blobs, platform, layers), "platform": _fields(platform)})
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": manifests}
    (layout / "index.json").write_bytes(_json(index))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def _write_image(blobs: Path, platform: Platform, layers: Sequence[bytes]) -> dict[str, object]:
    """Write one image; return its descriptor."""
    config = {
        **_fields(platform),
        "created": _CREATED,
        "config": {"Cmd": ["/usr/bin/noise"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256_of(layer) for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": _write_blob(blobs, _json(config), media_types.OCI_CONFIG),
        "layers": [_write_blob(blobs, gzip.compress(layer, compresslevel=1, mtime=0), _LAYER_TYPE) for layer in layers],
    }
    return _write_blob(blobs, _json(manifest), media_types.OCI_MANIFEST)


def _write_blob(blobs: Path, content: bytes, media_type: str) -> dict[str, object]:
    digest: Digest = sha256_of(content)
    (blobs / hex_of(digest)).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _tar(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of files; the same one every time."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _noise(name: bytes) -> bytes:
    """Return bytes that do not compress, so that there is something to transfer."""
    import hashlib  # noqa: PLC0415 - nothing else here hashes by hand

    return hashlib.shake_128(_SEED + name).digest(_LAYER_BYTES)


def _fields(platform: Platform) -> dict[str, str]:
    fields = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
    return {key: value for key, value in fields.items() if value}


def _json(document: object) -> bytes:
    return json.dumps(document).encode()
