"""What an image may take when it is unpacked, and how people write such numbers.

Each field of `Limits` whose name begins with ``max_`` is an option (``--max-size``), a key of the configuration file
(``max-size``) and an attribute of the API, under that one name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from micropod_img.errors import UnsafeError

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT_NAMES: Final = ("max_size", "max_entries", "max_file_size", "max_depth", "max_ratio")
"""The fields that users set."""

MOST_LAYERS: Final = 500
"""Layers of an image: as many as the kernel puts on one another (fs/overlayfs, OVL_MAX_STACK)."""

_SIZES: Final = ("max_size", "max_file_size")
_MAX_INT64: Final = (1 << 63) - 1
_PREFIXES: Final = ("", "k", "m", "g", "t")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the layers of an image may take when they are unpacked; beyond it the image is refused.

    Attributes:
        max_size: Bytes of the content of all files, over all layers.
        max_entries: Files, directories, links and whiteouts, over all layers.
        max_file_size: Bytes of one file.
        max_depth: Directories that one name may be deep.
        max_ratio: Uncompressed bytes of a layer for each stored one.
        ratio_floor: Uncompressed bytes of a layer up to which the ratio does not matter.
        path_length: Bytes of one name; the kernel takes no more than 4095.
        metadata_size: Bytes of all extended headers and long names of a layer.
    """

    max_size: int = 64 << 30
    max_entries: int = 2_000_000
    max_file_size: int = 32 << 30
    max_depth: int = 256
    max_ratio: int = 250
    ratio_floor: int = 1 << 30
    path_length: int = 4095
    metadata_size: int = 256 << 20

    def changed(self, written: Mapping[str, str]) -> Limits:
        """Return these limits with others in place of some.

        Args:
            written: By the name of the field, what a user wrote.

        Raises:
            InvalidLimitError: One of them is no number above 0.
        """
        if not written:
            return self
        return replace(self, **{name: _read(name, text) for name, text in written.items()})


class InvalidLimitError(Exception):
    """Text that is no limit.

    Args:
        name: The limit as users know it: ``max-size``.
        problem: What is wrong, as the end of a sentence about the text.
        hint: How it is written.
    """

    def __init__(self, name: str, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.name = name
        self.problem = problem
        self.hint = hint


def refuse_many_layers(name: str, count: int) -> None:
    """Refuse an image of more layers than can be put on one another.

    Args:
        name: What to call it in the error.
        count: Its layers.

    Raises:
        UnsafeError: They are too many.
    """
    if count > MOST_LAYERS:
        raise UnsafeError(
            f"{name} has {count} layers, and an image may have {MOST_LAYERS}",
            code="too-many-layers",
            hint="no real image needs that; do not use it",
        )


def written_name(name: str) -> str:
    """Return a limit's name as options and configuration have it: ``max-size`` of ``max_size``."""
    return name.replace("_", "-")


def _read(name: str, text: str) -> int:
    is_size = name in _SIZES
    number = _size(text) if is_size else int(text) if re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) else None
    if number is not None and 0 < number <= _MAX_INT64:
        return number
    kind, example = ("a size", "2G, 512MiB or 1500000") if is_size else ("a whole number above 0", "100000")
    raise InvalidLimitError(written_name(name), f"{text!r} is not {kind}", f"write {example}")


def _size(text: str) -> int | None:
    """Read a number of bytes as coreutils do: K, M, G, T and KiB are powers of 1024, KB, MB, GB of 1000."""
    matched = re.fullmatch(r"([0-9]{1,19})(\.[0-9]{1,3})? ?([kmgt]?)(i?b)?", text, re.ASCII | re.IGNORECASE)
    if matched is None:
        return None
    whole, fraction, prefix, suffix = matched[1], matched[2] or "", matched[3].lower(), (matched[4] or "").lower()
    if (fraction or suffix == "ib") and not prefix:
        return None
    thousandths = int(whole) * 1000 + int(f"{fraction[1:]:0<3}")
    for _ in range(_PREFIXES.index(prefix)):
        thousandths *= 1000 if suffix == "b" else 1024
    return thousandths // 1000
