"""Values to render."""

from __future__ import annotations

from datetime import UTC, datetime

from micropod_img.digest import Digest
from micropod_img.models import Image, Layer
from micropod_img.platforms import Platform

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
MIB = 1 << 20


def digest(digits: str) -> Digest:
    """Return the digest whose first digits these are."""
    return Digest(f"sha256:{digits.ljust(64, '0')}")


def image(
    ref: str, digits: str = "1", *, platform: str = "linux/amd64", size: int = MIB, index_digits: str | None = None
) -> Image:
    return Image(
        ref=ref,
        digest=digest(digits),
        index_digest=None if index_digits is None else digest(index_digits),
        media_type="application/vnd.oci.image.manifest.v1+json",
        platform=Platform(*platform.split("/")),
        config_digest=digest("c"),
        layer_details=(Layer(digest("a"), digest("b"), "application/vnd.oci.image.layer.v1.tar+gzip", size),),
        size=size,
        created=datetime(2024, 5, 1, tzinfo=UTC),
        pulled_at=datetime(2024, 6, 1, 11, 59, 59, tzinfo=UTC),
        last_used_at=NOW,
    )
