"""Frozen values that a few use cases return: disk usage, versions of tools, what a push did and a pull would do.

They are not in `models`, which every start loads: each class takes a third of a millisecond to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micropod_img.digest import Digest
    from micropod_img.models import Image
    from micropod_img.platforms import Platform
    from micropod_img.progress import LayerPlan


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """Disk use of one image in bytes: blobs that other images need too, and blobs that are its own."""

    image: Image
    shared_bytes: int
    own_bytes: int


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Disk use of the store in bytes; each blob counts once in ``image_bytes`` however many images share it."""

    images: tuple[ImageUsage, ...]
    image_bytes: int
    unreferenced_bytes: int
    staging_bytes: int


@dataclass(frozen=True, slots=True)
class ToolVersion:
    """One of the Go tools: its pinned version, and the file that is used."""

    name: str
    version: str
    path: str


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did.

    Attributes:
        ref: Where to.
        digest: Digest of the manifest or index that the name stands for there now.
        media_type: Its media type.
        pushed_bytes: Bytes of the blobs and manifests that were sent.
        present_bytes: Bytes that the registry had.
    """

    ref: str
    digest: Digest
    media_type: str
    pushed_bytes: int
    present_bytes: int


@dataclass(frozen=True, slots=True)
class PlannedEndpoint:
    """One place that a pull would ask.

    Attributes:
        host: ``host[:port]``.
        reference: What it is asked for.
        is_mirror: Whether it is a mirror, or stands in for the registry.
        insecure: Whether plain HTTP and any certificate will do.
        credential_source: Where the credential for it comes from; None where there is none.
        answer: ``has it``, why it cannot, or None where it was not asked, as another one before it has the image.
    """

    host: str
    reference: str
    is_mirror: bool
    insecure: bool
    credential_source: str | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull would do.

    Attributes:
        ref: The canonical reference.
        digest: Digest of the platform's manifest; of the index for all platforms.
        platform: What it runs on; None for all platforms.
        endpoints: The places that would be asked, in order.
        fetch: Whether it would be fetched; not where the policy is content with what is here.
        layers: Each layer once, and whether it is here.
        download_bytes: Bytes to fetch.
        present_bytes: Bytes that are here.
        needed_bytes: Bytes of the disk that it would take.
        free_bytes: Bytes of the disk that are free for it.
    """

    ref: str
    digest: Digest
    platform: Platform | None
    endpoints: tuple[PlannedEndpoint, ...]
    fetch: bool
    layers: tuple[LayerPlan, ...]
    download_bytes: int
    present_bytes: int
    needed_bytes: int
    free_bytes: int
