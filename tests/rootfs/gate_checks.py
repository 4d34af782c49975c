"""The gate as tests ask it."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

import pytest

from micropod_img.digest import Digest, sha256_of
from micropod_img.errors import UnsafeError
from micropod_img.rootfs.gate import GateReport, check_layer
from tests.rootfs.tar_layers import END, GZIP_LAYER

if TYPE_CHECKING:
    from micropod_img.limits import Limits
    from micropod_img.rootfs.totals import ImageTotals

MIB = 1 << 20
SOME_DIGEST = sha256_of(b"a layer")


def check(archive: bytes, limits: Limits | None = None, totals: ImageTotals | None = None) -> GateReport:
    """Let the gate look at an archive that is stored as it is."""
    return check_stored(archive, sha256_of(archive), limits, totals)


def check_stored(
    blob: bytes, diff_id: Digest, limits: Limits | None = None, totals: ImageTotals | None = None
) -> GateReport:
    return check_layer(
        io.BytesIO(blob),
        digest=SOME_DIGEST,
        media_type=GZIP_LAYER,
        diff_id=diff_id,
        limits=limits,
        totals=totals,
    )


def refusal(archive: bytes, limits: Limits | None = None) -> str:
    """Return how the gate refuses an archive."""
    with pytest.raises(UnsafeError) as caught:
        check(archive + END, limits)
    assert caught.value.exit_status == 12
    assert caught.value.message.isprintable()
    assert SOME_DIGEST in caught.value.message
    return caught.value.message


def sparse(**changed: bytes | None) -> dict[bytes, bytes]:
    """The records of a sparse file as GNU tar writes it; others may be given, None leaves one out."""
    usual: dict[str, bytes | None] = {"major": b"1", "minor": b"0", "name": b"holes", "realsize": b"4096"}
    return {b"GNU.sparse." + key.encode(): value for key, value in (usual | changed).items() if value is not None}


class Endless(io.RawIOBase):
    """A stream that repeats a piece for ever."""

    def __init__(self, piece: bytes, first: bytes = b"") -> None:
        self._pieces = itertools.chain([first], itertools.repeat(piece))
        self._rest = b""

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        while not self._rest:
            self._rest = next(self._pieces)
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
