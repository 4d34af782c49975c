"""Layers as umoci is given them: files of what has passed the gate, or what is passing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img.rootfs.layer_stream import Compression

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.rootfs.passage import Passage


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer that passed the gate.

    Attributes:
        path: Its file.
        digest: Its digest.
        diff_id: The digest of its uncompressed bytes.
    """

    path: Path
    digest: Digest
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class PassingBlob:
    """A layer that is passing the gate.

    Attributes:
        digest: Its digest.
        diff_id: The digest of its uncompressed bytes.
        compression: How the bytes that pass are compressed; those of a layer with none are uncompressed.
        passage: Gives them.
    """

    digest: Digest
    diff_id: Digest
    compression: Compression
    passage: Passage

    @property
    def readable_digest(self) -> Digest:
        """The digest of the bytes that pass."""
        return self.diff_id if self.compression is Compression.NONE else self.digest
