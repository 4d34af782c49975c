"""The entries of a tar archive, read as Go's archive/tar reads them, or not at all.

umoci sees a layer through archive/tar. Whatever archive/tar accepts and other readers understand differently (GNU tar,
libarchive, Python's tarfile) is refused here, so that what was checked is what will be unpacked. POSIX.1-2024 pax
(ustar and extended headers), the GNU format with its long names, and V7 are what layers are made of.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from micropod_img.rootfs.layer_stream import LayerStream

REGULAR, HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_OLD_REGULAR, _EXTENDED, _LONG_NAME, _LONG_LINK = b"\0", b"x", b"L", b"K"
_KINDS = frozenset((REGULAR, HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO))
_REFUSED_KINDS = {b"g": "global extended header", b"S": "sparse file of the old GNU format", b"7": "contiguous file"}

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12s")
_USTAR, _GNU, _V7 = b"ustar\0", b"ustar  \0", bytes(8)
_STAR_TRAILER = b"tar\0"  # Schily's star: a shorter prefix, which only some readers know
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MAX_METADATA = 1 << 20  # of one extended header or long name; archive/tar gives up at the same size

# What nearly every writer makes of mode, uid, gid, size, mtime and checksum; the rest is looked at one by one.
_COMMON_NUMBERS = re.compile(rb"(?:[0-7]{7}\0){3}(?:[0-7]{11}[\0 ]){2}[0-7]{6}\0 ")
_NO_DEVICE = frozenset((b"0000000\0" * 2, bytes(16)))
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*|[ \0]*")
_MAX_OCTAL_SIZE = (1 << 33) - 1
_MAX_INT64 = (1 << 63) - 1
_MAX_ID = (1 << 32) - 2  # the number above means "leave it as it is" to chown(2)
_MAX_RECORDS = 1024
_LENGTH_DIGITS = 8  # of a record, and the space after them: more than the longest extended header needs

_SPARSE_PREFIX = b"GNU.sparse."
_SPARSE_KEYS = frozenset(_SPARSE_PREFIX + key for key in (b"major", b"minor", b"name", b"realsize"))
# archive/tar takes an empty value of these for no value, where POSIX says that it takes the header's away
_NEVER_EMPTY = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid"))


class AmbiguousHeaderError(Exception):
    """A header that readers understand differently, or that archive/tar does not read.

    Args:
        reason: What is wrong, as the end of a sentence about the entry.
        name: The entry's name as far as it is known.
    """

    def __init__(self, reason: str, name: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.name = name


class Entry(NamedTuple):
    """One entry.

    Attributes:
        name: As written: possibly absolute, with ``.`` and ``..`` components and repeated slashes.
        kind: One of this module's constants.
        size: Bytes of a regular file when it is unpacked; for a sparse file more than are stored.
        link_name: What a link points to.
        mode: Permission bits, and with some writers the bits of the type; 0 for regular files.
        device: Major and minor number; 0, 0 for what is no device, and in V7 archives.
        records: Its extended header.
        metadata_size: Bytes of its extended header and long names.
    """

    name: bytes
    kind: bytes
    size: int
    link_name: bytes
    mode: int
    device: tuple[int, int]
    records: Mapping[bytes, bytes]
    metadata_size: int


class _Header(NamedTuple):
    """The fields of a header as they lie in the block; the names of the owner are passed over."""

    name: bytes
    mode: bytes
    uid: bytes
    gid: bytes
    size: bytes
    mtime: bytes
    checksum: bytes
    kind: bytes
    link_name: bytes
    magic: bytes
    major: bytes
    minor: bytes
    prefix: bytes
    rest: bytes


def read_entries(stream: LayerStream) -> Iterator[Entry]:
    """Read an archive to the end of its stream.

    Args:
        stream: An uncompressed archive; one without any byte and one without an end mark are fine, as archive/tar says.

    Yields:
        Each entry, before its content is passed.

    Raises:
        AmbiguousHeaderError: See there.
    """
    long: dict[bytes, bytes] = {}
    while (block := stream.block()) and block != _ZEROS:
        header = _Header._make(_HEADER.unpack(block))
        kind, size = header.kind, _checked_size(block, header)
        if kind in (_EXTENDED, _LONG_NAME, _LONG_LINK):
            if kind in long or (long and (kind == _EXTENDED or _EXTENDED in long)):
                raise AmbiguousHeaderError("has several extended headers that contradict each other")
            long[kind] = _metadata(stream, size)
            continue
        entry, stored_size = _entry(header, size, long)
        yield entry
        if stored_size:
            stream.skip(stored_size)
        if long:
            long = {}
    if long:
        raise AmbiguousHeaderError("is missing after its extended header")
    if block and stream.block() not in (b"", _ZEROS):
        raise AmbiguousHeaderError("comes after an empty block, which some readers take for the end")
    if block and not stream.only_zeros_follow():
        raise AmbiguousHeaderError("comes after the end of the archive, where only some readers look")


def _metadata(stream: LayerStream, size: int) -> bytes:
    if size > _MAX_METADATA:
        raise AmbiguousHeaderError(f"has an extended header of {size} bytes")
    blocks = stream.read(-(-size // _BLOCK) * _BLOCK)
    content, padding = blocks[:size], blocks[size:]
    if padding.count(0) != len(padding):
        raise AmbiguousHeaderError("has an extended header with something behind it, which only some readers read")
    return content


def _entry(header: _Header, size: int, long: Mapping[bytes, bytes]) -> tuple[Entry, int]:
    kind, name, link_name = header.kind, _name(header), _string(header.link_name)
    if long:
        name = _long_string(long[_LONG_NAME]) if _LONG_NAME in long else name
        link_name = _long_string(long[_LONG_LINK]) if _LONG_LINK in long else link_name
    records = _records(long[_EXTENDED], name) if _EXTENDED in long else {}
    unpacked_size = size
    if records:
        name = records.get(b"path", name)
        link_name = records.get(b"linkpath", link_name)
        size = unpacked_size = _size_with(records, size, name)
    if kind == _OLD_REGULAR:
        kind = DIRECTORY if name.endswith(b"/") else REGULAR
        if (kind == DIRECTORY) != _string(header.name).endswith(b"/"):
            raise AmbiguousHeaderError("is a directory by one of its names and a file by the other", name)
    if kind not in _KINDS:
        what = _REFUSED_KINDS.get(kind, f"entry of the unknown type {kind!r}")
        raise AmbiguousHeaderError(f"is a {what}, which layers cannot hold", name)
    if records and any(key.startswith(_SPARSE_PREFIX) for key in records):
        name, unpacked_size = _sparse(records, kind, name)
    if size and kind != REGULAR:
        raise AmbiguousHeaderError("says that it has content, which only regular files have", name)
    if kind != DIRECTORY and name.endswith((b"/", b"/.")):
        raise AmbiguousHeaderError("has the name of a directory and is none", name)
    mode = 0 if kind == REGULAR else _number(header.mode, name)
    metadata_size = sum(map(len, long.values())) if long else 0
    return Entry(name, kind, unpacked_size, link_name, mode, _device(header, kind, name), records, metadata_size), size


def _device(header: _Header, kind: bytes, name: bytes) -> tuple[int, int]:
    if kind not in (CHARACTER_DEVICE, BLOCK_DEVICE):
        return 0, 0
    if header.magic == _V7 and header.major + header.minor not in _NO_DEVICE:
        raise AmbiguousHeaderError("has a device number where its format has none", name)
    return _number(header.major, name), _number(header.minor, name)


def _checked_size(block: bytes, header: _Header) -> int:
    """Check the sum and the numbers that every header has; return the size."""
    common = _COMMON_NUMBERS.match(block, 100)
    checksum = int(block[148:154], 8) if common else _number(header.checksum, b"")
    # Adler-32 is modulo 65521, more than 256 bytes can add up to: its lower half is the plain sum of so few. The
    # checksum itself counts as eight spaces.
    before, after, rest = zlib.adler32(block[:148], 0), zlib.adler32(block[156:412], 0), zlib.adler32(block[412:], 0)
    if checksum != (before & 0xFFFF) + (after & 0xFFFF) + (rest & 0xFFFF) + 8 * 0x20:
        raise AmbiguousHeaderError("has a header whose checksum is wrong")
    if block[329:345] not in _NO_DEVICE and header.magic != _V7:
        _number(header.major, b""), _number(header.minor, b"")
    if common:
        return int(block[124:135], 8)
    name = _string(header.name)
    mode, uid, gid, size, _ = (
        _number(field, name) for field in (header.mode, header.uid, header.gid, header.size, header.mtime)
    )
    if not (mode >= 0 and 0 <= uid <= _MAX_ID and 0 <= gid <= _MAX_ID and 0 <= size <= _MAX_INT64):
        raise AmbiguousHeaderError("has a mode, owner or size out of range", name)
    return size


def _name(header: _Header) -> bytes:
    name, magic = _string(header.name), header.magic
    if magic.startswith(_USTAR):
        if header.rest.endswith(_STAR_TRAILER):
            raise AmbiguousHeaderError("has a header of the star format", name)
        prefix = _string(header.prefix)
        name = prefix + b"/" + name if prefix else name
    elif magic == _GNU:
        # Where other writers have a prefix, these have times; archive/tar takes what is no number for a prefix.
        for field in (header.prefix[:12], header.prefix[12:24]):
            if field[0]:
                _number(field, name)
    elif magic != _V7:
        raise AmbiguousHeaderError("has a header of an unknown format", name)
    return name


def _string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _long_string(content: bytes) -> bytes:
    name = content.rstrip(b"\0")
    if b"\0" in name:
        raise AmbiguousHeaderError("has a zero byte in its name", name)
    return name


def _number(field: bytes, name: bytes) -> int:
    if field[0] in (0x80, 0xFF):  # GNU's binary form: a sign byte, then the number
        number = int.from_bytes(field[1:] if field[0] == 0x80 else field, "big", signed=field[0] == 0xFF)  # noqa: PLR2004
        if abs(number) <= _MAX_INT64:
            return number
    elif (octal := _OCTAL.fullmatch(field)) is not None:
        return int(octal[1] or b"0", 8)
    raise AmbiguousHeaderError("has a header with a number that is none", name)


def _records(content: bytes, name: bytes) -> dict[bytes, bytes]:
    """Read an extended header, records of ``length key=value`` and a newline (POSIX.1-2024, pax, Extended Header)."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(content):
        digits, _, _ = content[position : position + _LENGTH_DIGITS].partition(b" ")
        start = position + len(digits) + 1
        end = position + int(digits) if digits.isdigit() and len(digits) < _LENGTH_DIGITS else 0
        key, equals, value = content[start : end - 1].partition(b"=")
        if not start < end <= len(content) or content[end - 1 : end] != b"\n" or not (key and equals) or b"\0" in key:
            raise AmbiguousHeaderError("has an extended header that cannot be read", name)
        if key in records:
            raise AmbiguousHeaderError("has an extended header that says the same thing twice", name)
        if key in _NEVER_EMPTY and not value:
            raise AmbiguousHeaderError("has an extended header with an empty value", name)
        if key in (b"path", b"linkpath") and b"\0" in value:
            raise AmbiguousHeaderError("has a zero byte in its name", name)
        records[key] = value
        if len(records) > _MAX_RECORDS:
            raise AmbiguousHeaderError(f"has an extended header of more than {_MAX_RECORDS} records", name)
        position = end
    for key in (b"uid", b"gid"):
        if key in records and _decimal(records[key], name) > _MAX_ID:
            raise AmbiguousHeaderError("has an owner out of range", name)
    return records


def _size_with(records: Mapping[bytes, bytes], header_size: int, name: bytes) -> int:
    if b"size" not in records:
        return header_size
    size = _decimal(records[b"size"], name)
    if size != header_size and size <= _MAX_OCTAL_SIZE:
        raise AmbiguousHeaderError("has two sizes that contradict each other", name)
    return size


def _sparse(records: Mapping[bytes, bytes], kind: bytes, name: bytes) -> tuple[bytes, int]:
    """Return the name and unpacked size of a sparse file in the one form that GNU tar and libarchive write (1.0)."""
    present = {key for key in records if key.startswith(_SPARSE_PREFIX)}
    version = records.get(_SPARSE_PREFIX + b"major"), records.get(_SPARSE_PREFIX + b"minor")
    real_name = records.get(_SPARSE_PREFIX + b"name")
    if kind != REGULAR or present != _SPARSE_KEYS or version != (b"1", b"0") or not real_name or b"\0" in real_name:
        raise AmbiguousHeaderError("is a sparse file of a form that readers disagree on", name)
    return real_name, _decimal(records[_SPARSE_PREFIX + b"realsize"], real_name)


def _decimal(value: bytes, name: bytes) -> int:
    if not value.isdigit() or len(value) > len(str(_MAX_INT64)) or (number := int(value)) > _MAX_INT64:
        raise AmbiguousHeaderError("has an extended header with a number that is none", name)
    return number
