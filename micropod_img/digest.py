"""Content digests (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from micropod_img.errors import UsageError

Digest = NewType("Digest", str)
"""``algorithm:encoded``, checked: for sha256 always 64 lower-case hex digits."""

_REGISTERED = {"sha256": re.compile(r"[a-f0-9]{64}"), "sha512": re.compile(r"[a-f0-9]{128}")}
_LONGEST_SHOWN = 140


def parse_digest(text: str) -> Digest:
    """Check a digest of a registered algorithm.

    Args:
        text: ``sha256:<64 hex>`` or ``sha512:<128 hex>``; nothing around it.

    Returns:
        The same text, as a `Digest`.

    Raises:
        UsageError: The text is no such digest.
    """
    algorithm, _, encoded = text.partition(":")
    pattern = _REGISTERED.get(algorithm)
    if pattern is None or pattern.fullmatch(encoded) is None:
        shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
        raise UsageError(f"{shown!r} is not a digest", code="invalid-digest", hint="a digest is sha256:<64 hex digits>")
    return Digest(text)


def sha256_of(content: bytes) -> Digest:
    """Return the sha256 digest of some bytes."""
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


def hex_of(digest: Digest) -> str:
    """Return the encoded part of a digest, which names its file in an OCI layout."""
    return digest.partition(":")[2]
