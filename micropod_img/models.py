"""The frozen values that the API returns and that `render` turns into tables and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.errors import MicropodError
    from micropod_img.platforms import Platform


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image: as it is stored (digest, media type, size in bytes) and what it unpacks to (diff ID)."""

    digest: Digest
    diff_id: Digest
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the store, for one platform.

    Attributes:
        ref: The canonical reference; empty for an image that another tool left in the layout without a name.
        digest: Digest of the platform's manifest.
        index_digest: Digest of the top-level index it came from, if it came from one.
        media_type: Media type of the platform's manifest.
        platform: What it runs on.
        config_digest: Digest of its configuration.
        layer_details: Its layers, bottom to top.
        size: Bytes of manifest, configuration and layers as they are stored.
        created: When it was built, if it says so.
        pulled_at: When it came into this store; None for an image that another tool put there.
        last_used_at: When it was last pulled, unpacked or mounted.
    """

    ref: str
    digest: Digest
    index_digest: Digest | None
    media_type: str
    platform: Platform
    config_digest: Digest
    layer_details: tuple[Layer, ...]
    size: int
    created: datetime | None
    pulled_at: datetime | None
    last_used_at: datetime

    @property
    def layers(self) -> tuple[Digest, ...]:
        """Layer digests, bottom to top."""
        return tuple(layer.digest for layer in self.layer_details)


@dataclass(frozen=True, slots=True)
class PullFailure:
    """One reference of a pull that failed, as the user wrote it, and why."""

    ref: str
    error: MicropodError


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull of one or several references did; `images` and `failures` are in the order given."""

    images: tuple[Image, ...]
    failures: tuple[PullFailure, ...]
    downloaded_bytes: int
    reused_bytes: int


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What was removed: references and digests that no longer name an image here, and the bytes that this freed."""

    removed: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class DriverChoice:
    """What root filesystems are made with here, why, and why not with what would have been better."""

    driver: str
    reason: str
    rejected: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """A root filesystem of its own, made of an image's snapshots.

    Attributes:
        id: Its name.
        ref: The canonical reference that it was made from; the reference may name another image by now.
        image_digest: Digest of the platform's manifest that it was made from.
        rootfs: Where its files are while it is mounted; for an ordinary user only in the namespaces that
            `namespace_pid` has.
        bundle: The OCI bundle, if it has a ``config.json``.
        driver: What it was made with.
        mounted: Whether its files are there now; after a reboot they are not until it is mounted again.
        created_at: When it was made.
        chain_ids: The snapshots that it needs, bottom to top.
        read_only: Whether nobody may write to it.
        namespace_pid: The process in whose user and mount namespace ``rootfs`` is valid, as nsenter(1) takes it;
            ``micropod-img unshare`` enters them. None for root, for a copy, and where nothing is mounted.
    """

    id: str
    ref: str
    image_digest: Digest
    rootfs: Path
    bundle: Path | None
    driver: str
    mounted: bool
    created_at: datetime
    chain_ids: tuple[Digest, ...]
    read_only: bool
    namespace_pid: int | None = None
