"""What a pull tells of the layers that it brings, so that each can be used while later ones are still on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.models import Layer


class Arrivals(Protocol):
    """Is told what arrives; all of it by one thread, which must not be kept waiting."""

    def expect(self, layers: Sequence[Layer]) -> None:
        """Hear which image comes, once its configuration was validated.

        It is called again when another place is asked, which may have another image.

        Args:
            layers: All of its layers, bottom to top; they arrive in about this order.
        """

    def growing(self, digest: Digest, path: Path) -> None:
        """Hear that a layer is being written to a file; what its bytes are worth is known only in the end."""

    def lost(self, digest: Digest) -> None:
        """Hear that what was written of a layer is worth nothing: it failed, or its bytes are wrong."""

    def arrived(self, digest: Digest) -> None:
        """Hear that a layer is here, verified; the pull keeps it while it lasts. It may be called again for one."""
