"""The uncompressed bytes of a layer, read once from front to back in constant memory, with limits that hold meanwhile.

Compression is told by the first bytes and not by the media type, as containerd, Docker and Podman do (images whose
media type is wrong are common); the diff ID decides whether the outcome is the right one.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import sys
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from isal import igzip, igzip_lib

from micropod_img.digest import Digest
from micropod_img.errors import IntegrityError
from micropod_img.fsutil import disk_error

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

    from micropod_img.cancellation import Cancellation

BLOCK = 512
MAGIC_SIZE = 4
"""Bytes that tell how a layer is compressed."""
_CHUNK = 256 * BLOCK  # whole blocks, so that a header never lies across two chunks
_MAX_ZSTD_WINDOW_LOG = 27  # 128 MiB, what `zstd --ultra -22` needs and zstd itself grants without being asked
_CORRUPT: tuple[type[Exception], ...] = (
    gzip.BadGzipFile,
    igzip_lib.IsalError,  # type: ignore[assignment]  # its stub has an instance for the class
    OverflowError,  # from isal: a gzip header of more than half a megabyte
    zstd.ZstdError,
)
DAMAGED_HINT = "micropod-img verify says whether it is damaged here, and --repair fetches it again"
_BUFFERED = 1 << 20  # more than the buffers of io, isal and zstd hold together, before and behind a decompressor
_MAX_PADDING = 64 << 20  # a table of contents (zstd:chunked, eStargz) takes a few MiB for 100,000 files


class Compression(Enum):
    """How the bytes of a layer are compressed; the value is the suffix of its OCI media type (layer.md)."""

    NONE = ""
    GZIP = "+gzip"
    ZSTD = "+zstd"


def compression_of(first_bytes: bytes) -> Compression:
    """Tell the compression of a layer.

    Args:
        first_bytes: Its first `MAGIC_SIZE` bytes, or all of them if there are fewer; none at all is an empty archive.
    """
    if first_bytes.startswith(b"\x1f\x8b"):
        return Compression.GZIP
    is_skippable = first_bytes[1:4] == b"\x2a\x4d\x18" and first_bytes[0] >> 4 == 5  # noqa: PLR2004 - RFC 8878, 3.1.2
    return Compression.ZSTD if is_skippable or first_bytes.startswith(b"\x28\xb5\x2f\xfd") else Compression.NONE


class BinaryStream(Protocol):
    """What a layer can be read from: an open file, a BytesIO, a pipe, an HTTP response."""

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Fill a buffer as far as possible; return how many bytes of it, 0 at the end."""


class StreamLimitError(Exception):
    """The stream went over a limit.

    Args:
        reason: What is wrong, as the end of a sentence about the entry at which it happened.
        code: Name of the limit.
    """

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class LayerStream:
    """Blocks and runs of bytes of one layer, each passed once, with a running sha256 of all of them.

    Args:
        stored: The layer as it is stored.
        digest: What to call it in errors.
        max_size: Uncompressed bytes beyond which it is refused.
        max_ratio: Uncompressed bytes for each stored byte, beyond which it is refused as a decompression bomb.
        ratio_floor: Uncompressed bytes up to which any ratio is fine.
        cancellation: Ends the reading between two chunks.
        passed: Is told before more is read which uncompressed bytes were handed out or skipped, and up to where the
            stored bytes unpack to nothing else; that never comes to the end of these.
    """

    def __init__(
        self,
        stored: BinaryStream,
        *,
        digest: Digest,
        max_size: int,
        max_ratio: int,
        ratio_floor: int,
        cancellation: Cancellation | None = None,
        passed: Callable[[bytes, int], None] | None = None,
    ) -> None:
        self.size = 0
        self._digest = digest
        self._max_size = max_size
        self._max_ratio = max_ratio
        self._ratio_floor = ratio_floor
        self._cancellation = cancellation
        self._hash = hashlib.sha256()
        self._chunk = b""
        self._position = 0
        self._stored = _StoredBytes(stored)
        with self._errors():
            self._uncompressed = _uncompressed(self._stored)
        self._passed = passed
        self._offset = 0
        self._marks: deque[tuple[int, int]] = deque()

    @property
    def diff_id(self) -> Digest:
        """The sha256 of all that was read so far."""
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def block(self) -> bytes:
        """Return the next 512 bytes, or none at the end.

        Raises:
            IntegrityError: The layer ends in between, or cannot be decompressed.
            StreamLimitError: It goes over a limit.
        """
        start = self._position
        if start == len(self._chunk):
            if not self._fill():
                return b""
            start = 0
        self._position = start + BLOCK
        block = self._chunk[start : start + BLOCK]
        if len(block) < BLOCK:
            raise self._truncated()
        return block

    def read(self, size: int) -> bytes:
        """Return as many bytes, together with their padding to whole blocks out of the stream; raises as `block`."""
        return b"".join([self.block() for _ in range(-(-size // BLOCK))])[:size]

    def skip(self, size: int) -> None:
        """Pass as many bytes and their padding to whole blocks; raises as `block`."""
        self._position += -(-size // BLOCK) * BLOCK
        while self._position > len(self._chunk):
            self._position -= len(self._chunk)
            if not self._fill(keep_position=True):
                raise self._truncated()

    def only_zeros_follow(self) -> bool:
        """Read to the end, or to a byte that is not zero; return whether the end was reached. Raises as `block`."""
        rest = self._chunk[self._position :]
        while rest.count(0) == len(rest):
            if not self._fill():
                return True
            rest = self._chunk
        return False

    def drain(self) -> None:
        """Read to the end, for the digest, without a look at what there is; raises as `block`."""
        self._passed = None
        while self._fill():
            pass

    def _fill(self, *, keep_position: bool = False) -> bool:
        if self._cancellation is not None:
            self._cancellation.check()
        if self._passed is not None:
            self._passed(self._chunk, self._passed_offset())
        with self._errors():
            self._chunk = self._uncompressed.read(_CHUNK)
        if not keep_position:
            self._position = 0
        self._hash.update(self._chunk)
        self.size += len(self._chunk)
        self._stored.unpacked_size = self.size
        if self.size > self._max_size:
            raise StreamLimitError(
                f"is beyond the {self._max_size} bytes that an archive may have", "archive-too-large"
            )
        if self.size > max(self._ratio_floor, self._max_ratio * self._stored.size):
            raise StreamLimitError(
                f"unpacks to more than {self._max_ratio} times what is stored, as decompression bombs do",
                "decompression-bomb",
            )
        return bool(self._chunk)

    def _passed_offset(self) -> int:
        """Return up to where the stored bytes unpack to nothing but what has been handed out, which is all up to here.

        No decompressor says that. But at each mark all bytes stored before it, less those that were read and not
        unpacked yet, had unpacked to what was handed out by then and what was not handed out yet; and neither the ones
        nor the others fill larger buffers than this.
        """
        while self._marks and self._marks[0][0] + _BUFFERED <= self.size:
            self._offset = max(0, self._marks.popleft()[1] - _BUFFERED)
        self._marks.append((self.size, self._stored.size))
        return self._offset

    def _truncated(self) -> IntegrityError:
        return IntegrityError(
            f"layer {self._digest} ends in the middle of its archive", code="truncated-layer", hint=DAMAGED_HINT
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise IntegrityError(
                f"layer {self._digest} ends in the middle of its compressed data",
                code="truncated-layer",
                hint=DAMAGED_HINT,
                detail=str(error),
            ) from error
        except _CORRUPT as error:
            raise IntegrityError(
                f"layer {self._digest} cannot be decompressed",
                code="corrupt-layer",
                hint=DAMAGED_HINT,
                detail=str(error),
            ) from error
        except OSError as error:
            raise disk_error(error, f"layer {self._digest}") from error


class _StoredBytes(io.RawIOBase):
    """A stream that counts what was read of it, and gives no more where that unpacks to next to nothing.

    It knows what it unpacks to as a number: with a reference to who reads it, it would be part of a circle through an
    object of isal, which the garbage collector does not see, and no stream would ever be freed.
    """

    def __init__(self, stream: BinaryStream) -> None:
        self.size = 0
        self.unpacked_size = 0
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        # Empty gzip members and skippable zstd frames cost time and give nothing.
        if self.size > self.unpacked_size + self.unpacked_size // 8 + _MAX_PADDING:
            raise StreamLimitError("is stored in far more bytes than it unpacks to", "padded-layer")
        count = self._stream.readinto(buffer) or 0
        self.size += count
        return count


def _uncompressed(stored: _StoredBytes) -> io.BufferedIOBase:
    buffered = io.BufferedReader(stored)
    match compression_of(buffered.peek(MAGIC_SIZE)[:MAGIC_SIZE]):
        case Compression.GZIP:
            return igzip.IGzipFile(fileobj=buffered, mode="rb")  # type: ignore[no-untyped-call]
        case Compression.ZSTD:
            return zstd.ZstdFile(buffered, options={zstd.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG})
        case Compression.NONE:
            return buffered
