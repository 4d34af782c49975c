"""The gate in front of umoci: nothing of a layer is unpacked before it was looked at here.

It refuses what makes umoci or the kernel do more than unpack a file, what two readers of the archive could understand
differently (`tar_headers`), and what goes over a limit, while the bytes stream. Nothing is unpacked here, and no link
is followed: names are compared as they are written, and umoci resolves links inside the root filesystem only.

Spec: OCI image-spec, layer.md, with its whiteouts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from micropod_img import media_types
from micropod_img.errors import IntegrityError, UnsafeError, UnsupportedError
from micropod_img.fsutil import disk_errors
from micropod_img.limits import Limits
from micropod_img.rootfs import tar_headers
from micropod_img.rootfs.layer_stream import BLOCK, DAMAGED_HINT, LayerStream, StreamLimitError
from micropod_img.rootfs.quoting import quoted
from micropod_img.rootfs.tar_headers import AmbiguousHeaderError, Entry
from micropod_img.rootfs.totals import ImageTotals

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.cancellation import Cancellation
    from micropod_img.digest import Digest
    from micropod_img.rootfs.footprint import Footprint
    from micropod_img.rootfs.layer_stream import BinaryStream

# Only names that match are taken apart; all others are what they look like.
_NEEDS_CARE = re.compile(rb"[./]*\Z|(?:.*/)?(?:\.\.(?:/|\Z)|\.wh\.)", re.DOTALL)
_WHITEOUT = b".wh."
_NO_FILES_WHITEOUTS = frozenset((b".wh.", b".wh..", b".wh..."))  # of nothing at all, of ``.`` and of ``..``
_MAX_COMPONENT = 255

# What a layer may take before the totals of its image are told, unless that would be too much for them.
_UNTOLD_ENTRIES, _UNTOLD_SIZE = 64, 1 << 20

# By the code of a limit of the stream, what raises it.
_OPTIONS = {"archive-too-large": "--max-size", "decompression-bomb": "--max-ratio"}

# What the overlay drivers of the kernel and of fuse-overlayfs keep for themselves.
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers.override_stat")

# xattr(7), "User extended attributes", and what the kernel calls XATTR_SIZE_MAX.
_WITH_USER_XATTRS = (tar_headers.REGULAR, tar_headers.DIRECTORY, tar_headers.HARD_LINK)
_MAX_XATTR = 1 << 16

_TYPE_BITS = 0o170000
_TYPE_OF = {
    tar_headers.CHARACTER_DEVICE: 0o020000,
    tar_headers.BLOCK_DEVICE: 0o060000,
    tar_headers.FIFO: 0o010000,
}
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1


@dataclass(frozen=True, slots=True)
class GateReport:
    """What was seen of a layer that may pass.

    Attributes:
        diff_id: Digest of its uncompressed bytes.
        entries: Files, directories, links and whiteouts.
        unpacked_size: Bytes of its files' content, unpacked.
        has_xattrs: Whether any of its entries has an extended attribute.
        has_root: Whether one of its entries is the root directory.
    """

    diff_id: Digest
    entries: int
    unpacked_size: int
    has_xattrs: bool
    has_root: bool = False


def check_layer(
    blob: Path | BinaryStream,
    *,
    digest: Digest,
    media_type: str,
    diff_id: Digest,
    limits: Limits | None = None,
    totals: ImageTotals | None = None,
    cancellation: Cancellation | None = None,
    footprint: Footprint | None = None,
    passed: Callable[[bytes, int], None] | None = None,
) -> GateReport:
    """Look at every entry of a layer.

    Args:
        blob: The layer as it is stored: gzip of any number of members, zstd of any number of frames, or neither.
        digest: Its digest, which names it in errors.
        media_type: Its media type; decides only whether it is a layer at all.
        diff_id: What the sha256 of its uncompressed bytes must be.
        limits: What the layers of its image may take; the defaults unless given.
        totals: What those that were looked at before take, and those that are looked at meanwhile; nothing if None.
        cancellation: Ends the reading.
        footprint: Takes note of its entries.
        passed: Is told what has passed, as `LayerStream` does it; of an entry that is refused it is not told.

    Returns:
        What was seen.

    Raises:
        UnsafeError: An entry is refused, or a limit is exceeded.
        IntegrityError: It is truncated, cannot be decompressed, or has another diff ID.
        UnsupportedError: Its media type is not a layer's.
        DiskError: It cannot be read.
    """
    if media_type not in media_types.LAYERS:
        raise UnsupportedError(f"layer {digest} is of the unknown type {media_type!r}", code="layer-media-type")
    gate = _Gate(digest, limits or Limits(), totals or ImageTotals(), footprint)
    try:
        if isinstance(blob, Path):
            with disk_errors(blob), blob.open("rb", buffering=0) as stream:
                return _check(stream, diff_id, gate, cancellation, passed)
        return _check(blob, diff_id, gate, cancellation, passed)
    except BaseException:
        gate.take_back()
        raise


def _check(
    blob: BinaryStream,
    diff_id: Digest,
    gate: _Gate,
    cancellation: Cancellation | None,
    passed: Callable[[bytes, int], None] | None,
) -> GateReport:
    digest, limits = gate.digest, gate.limits
    # A header, an extended one, and the padding of both.
    headers = limits.metadata_size + 4 * BLOCK * limits.max_entries
    stream = LayerStream(
        blob,
        digest=digest,
        max_size=limits.max_size + headers,
        max_ratio=limits.max_ratio,
        ratio_floor=limits.ratio_floor,
        cancellation=cancellation,
        passed=passed,
    )
    try:
        ambiguity = _pass_through(stream, gate)
    except StreamLimitError as error:
        raise UnsafeError(
            f"layer {digest}: what follows {gate.place} {error.reason}",
            code=error.code,
            hint=_hint(_OPTIONS.get(error.code)),
        ) from error
    if stream.diff_id != diff_id:
        raise IntegrityError(
            f"layer {digest} unpacks to {stream.diff_id}, and its image says {diff_id}",
            code="diff-id-mismatch",
            hint=DAMAGED_HINT,
        )
    if ambiguity is not None:
        where = f"entry {quoted(ambiguity.name)}" if ambiguity.name else f"what follows {gate.place}"
        raise UnsafeError(
            f"layer {digest}: {where} {ambiguity.reason}",
            code="ambiguous-layer",
            hint="do not use this image; no common tool writes such layers",
        ) from ambiguity
    gate.settle()
    return GateReport(diff_id, gate.entries, gate.unpacked_size, has_xattrs=gate.has_xattrs, has_root=gate.has_root)


def _pass_through(stream: LayerStream, gate: _Gate) -> AmbiguousHeaderError | None:
    try:
        for entry in tar_headers.read_entries(stream):
            gate.look_at(entry)
    except AmbiguousHeaderError as error:
        stream.drain()  # damaged bytes make odd headers too; then the digest is wrong, and that is what is to be said
        return error
    return None


class _Gate:
    """The rules for single entries, and the sums over all of them."""

    def __init__(self, digest: Digest, limits: Limits, totals: ImageTotals, footprint: Footprint | None = None) -> None:
        self.digest = digest
        self.limits = limits
        self.entries = 0
        self.unpacked_size = 0
        self.has_xattrs = False
        self.has_root = False
        self._footprint = footprint
        self._metadata_size = 0
        self._last_entry: Entry | None = None
        self._totals = totals
        # What of it the totals know, and up to where they need not be asked again: they are shared, and locked.
        self._told = (0, 0)
        self._untold_entries = 0
        self._untold_size = 0

    @property
    def place(self) -> str:
        """How far it came."""
        return "its start" if self._last_entry is None else f"entry {quoted(self._last_entry.name)}"

    def look_at(self, entry: Entry) -> None:
        """Let an entry pass, or raise `UnsafeError`."""
        self._count(entry)
        self._last_entry = entry
        name = entry.name
        is_whiteout = bool(_NEEDS_CARE.match(name)) and self._is_whiteout(entry)
        if len(name) > _MAX_COMPONENT:
            self._look_at_length(entry)
        if entry.records:
            self._look_at_xattrs(entry)
        if self._footprint is not None:
            self._footprint.note(entry, is_whiteout=is_whiteout)
        # Of a whiteout nothing counts but the name: aufs made hard links of them, Docker makes empty files.
        if entry.kind != tar_headers.REGULAR and not is_whiteout:
            self._look_at_kind(entry)

    def _count(self, entry: Entry) -> None:
        limits = self.limits
        self.entries += 1
        self.unpacked_size += entry.size
        self._metadata_size += entry.metadata_size
        if entry.size > limits.max_file_size:
            self._over_limit(entry, f"is larger than {limits.max_file_size} bytes", "--max-file-size")
        if self.entries > self._untold_entries or self.unpacked_size > self._untold_size:
            self._tell(entry)
        if entry.name.count(b"/") > limits.max_depth:
            self._over_limit(entry, f"is more than {limits.max_depth} directories deep", "--max-depth")
        if self._metadata_size > limits.metadata_size:
            self._over_limit(entry, f"is beyond the {limits.metadata_size} bytes of extended headers", None)

    def settle(self) -> None:
        """Tell the totals the rest of what this layer takes, or raise `UnsafeError`."""
        if self._last_entry is not None:
            self._tell(self._last_entry)

    def take_back(self) -> None:
        """Count nothing of a layer that did not pass: it may come again."""
        self._totals.add(-self._told[0], -self._told[1])

    def _tell(self, entry: Entry) -> None:
        entries, size = self._totals.add(self.entries - self._told[0], self.unpacked_size - self._told[1])
        self._told = self.entries, self.unpacked_size
        if entries > self.limits.max_entries:
            self._over_limit(entry, _too_many(self.limits), "--max-entries")
        if size > self.limits.max_size:
            self._over_limit(entry, _too_large(self.limits), "--max-size")
        self._untold_entries = self.entries + min(_UNTOLD_ENTRIES, self.limits.max_entries - entries)
        self._untold_size = self.unpacked_size + min(_UNTOLD_SIZE, self.limits.max_size - size)

    def _is_whiteout(self, entry: Entry) -> bool:
        components = _components(entry.name)
        if b".." in components:
            self._refuse(entry, "leads out of the root filesystem")
        if not components:
            if entry.kind != tar_headers.DIRECTORY or not entry.name:
                self._refuse(entry, "takes the place of the root directory")
            self.has_root = True
            return False
        if any(component.startswith(_WHITEOUT) for component in components[:-1]):
            self._refuse(entry, "lies inside of a whiteout")
        if components[-1] in _NO_FILES_WHITEOUTS:
            self._refuse(entry, "is a whiteout of no file")
        return components[-1].startswith(_WHITEOUT)

    def _look_at_length(self, entry: Entry) -> None:
        if len(entry.name) > self.limits.path_length:
            self._over_limit(entry, f"has a name of more than {self.limits.path_length} bytes", None)
        if any(len(component) > _MAX_COMPONENT for component in entry.name.split(b"/")):
            self._over_limit(entry, f"has a name with a component of more than {_MAX_COMPONENT} bytes", None)

    def _look_at_xattrs(self, entry: Entry) -> None:
        for record in entry.records:
            _, is_xattr, xattr = record.partition(b".xattr.")  # SCHILY's, which umoci reads, and LIBARCHIVE's
            if is_xattr:
                self.has_xattrs = True
                self._look_at_xattr(entry, xattr, len(entry.records[record]))

    def _look_at_xattr(self, entry: Entry, xattr: bytes, size: int) -> None:
        if xattr.startswith(_OVERLAY_XATTRS):
            self._refuse(entry, f"sets {quoted(xattr)}, which belongs to the overlay filesystem")
        if not 0 < len(xattr) <= _MAX_COMPONENT or size > _MAX_XATTR:
            self._refuse(entry, "sets an attribute with a name or value that no kernel takes")
        if xattr.startswith(b"user.") and entry.kind not in _WITH_USER_XATTRS:
            self._refuse(entry, f"sets {quoted(xattr)}, which only files and directories can have")

    def _look_at_kind(self, entry: Entry) -> None:
        if entry.kind in (tar_headers.HARD_LINK, tar_headers.SYMLINK):
            self._look_at_link(entry)
        elif entry.kind in _TYPE_OF:
            major, minor = entry.device
            if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
                self._refuse(entry, "is a device whose number is out of range")
            if entry.kind == tar_headers.CHARACTER_DEVICE and entry.device == (0, 0):
                self._refuse(entry, "is a device that the overlay filesystem takes for a whiteout")
            if entry.mode & _TYPE_BITS not in (0, _TYPE_OF[entry.kind]):
                self._refuse(entry, "has the mode of another type")

    def _look_at_link(self, entry: Entry) -> None:
        target = entry.link_name
        if not target:
            self._refuse(entry, "links to nothing")
        if len(target) > self.limits.path_length:
            self._over_limit(entry, f"links to a name of more than {self.limits.path_length} bytes", None)
        if entry.kind == tar_headers.HARD_LINK and _NEEDS_CARE.match(target):
            # A symlink may say what it likes: it is followed by the container, inside of its root.
            components = _components(target)
            if b".." in components:
                self._refuse(entry, f"is a hard link to {quoted(target)}, which leads out of the root filesystem")
            if not components or any(component.startswith(_WHITEOUT) for component in components):
                self._refuse(entry, f"is a hard link to {quoted(target)}, which is no file")

    def _refuse(self, entry: Entry, reason: str) -> NoReturn:
        raise UnsafeError(
            f"layer {self.digest}: entry {quoted(entry.name)} {reason}",
            code="unsafe-layer",
            hint="do not use this image",
        )

    def _over_limit(self, entry: Entry, reason: str, option: str | None) -> NoReturn:
        raise UnsafeError(
            f"layer {self.digest}: entry {quoted(entry.name)} {reason}",
            code="layer-limit",
            hint=_hint(option),
        )


def count_again(report: GateReport, *, digest: Digest, limits: Limits, totals: ImageTotals) -> None:
    """Count a layer that stands in its image once more, and takes as much again.

    Raises:
        UnsafeError: With it the image is over a limit.
    """
    entries, size = totals.add(report.entries, report.unpacked_size)
    for is_over, reason, option in (
        (entries > limits.max_entries, _too_many(limits), "--max-entries"),
        (size > limits.max_size, _too_large(limits), "--max-size"),
    ):
        if is_over:
            raise UnsafeError(f"layer {digest}, repeated, {reason}", code="layer-limit", hint=_hint(option))


def _too_many(limits: Limits) -> str:
    return f"is beyond the {limits.max_entries} entries that an image may have"


def _too_large(limits: Limits) -> str:
    return f"is beyond the {limits.max_size} bytes that an image may have"


def _hint(option: str | None) -> str:
    return f"raise {option} if you trust this image" if option else "do not use this image"


def _components(name: bytes) -> list[bytes]:
    return [component for component in name.split(b"/") if component not in (b"", b".")]
