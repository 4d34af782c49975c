"""Chain IDs: what a stack of layers is called (OCI image-spec, config.md, "Layer ChainID")."""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType

from micropod_img.digest import Digest, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable

ChainId = NewType("ChainId", Digest)
"""Names the files that result when a layer is applied over all layers below it."""


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[ChainId, ...]:
    """Return the chain ID at each layer.

    Args:
        diff_ids: The layers' diff IDs, bottom to top.

    Returns:
        As many chain IDs, bottom to top; the last is that of the whole.
    """
    chain: list[ChainId] = []
    for diff_id in diff_ids:
        chain.append(ChainId(sha256_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id))
    return tuple(chain)
