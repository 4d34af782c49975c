"""The OCI layout of one image that umoci reads, written here (image-layout.md): it never sees the store's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from micropod_img import media_types
from micropod_img.digest import hex_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TAG: Final = "unpack"
"""What the image is called in there."""


def blobs_of(layout: Path) -> Path:
    """Return the directory of a layout's blobs, made if it is missing; layers are put there before `write_layout`."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    return blobs


def write_layout(layout: Path, config: Mapping[str, object], *, layers: Sequence[Mapping[str, object]] = ()) -> None:
    """Write all of a layout but its layers.

    Args:
        layout: A private directory.
        config: The configuration of its image.
        layers: Their descriptors, bottom to top.
    """
    described = _put(layout, media_types.OCI_CONFIG, config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": described,
        "layers": list(layers),
    }
    top = _put(layout, media_types.OCI_MANIFEST, manifest)
    top["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def _put(layout: Path, media_type: str, document: Mapping[str, object]) -> dict[str, object]:
    content = json.dumps(document).encode()
    digest = sha256_of(content)
    (blobs_of(layout) / hex_of(digest)).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}
