"""``index.json``: which images exist. Pure values; reading and replacing the file is `micropod_img.store.store`'s.

Another tool's entries, and members that this program does not know, are kept as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from micropod_img import media_types
from micropod_img.digest import Digest, parse_digest
from micropod_img.errors import IntegrityError, InvalidReference, UsageError
from micropod_img.platforms import Platform, host_platform, normalize
from micropod_img.reference import Reference
from micropod_img.store.blobs import VERIFY_HINT
from micropod_img.store.documents import Members, corrupt, members_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

REF_NAME: Final = "org.opencontainers.image.ref.name"
REFERENCE: Final = "io.micropod.reference"
INDEX_DIGEST: Final = "io.micropod.index-digest"
PULLED_AT: Final = "io.micropod.pulled-at"


@dataclass(frozen=True, slots=True)
class Entry:
    """One descriptor of the index: a platform's manifest, or a whole index."""

    digest: Digest
    media_type: str
    size: int
    platform: Platform | None
    annotations: Mapping[str, str]
    members: Mapping[str, object]

    @property
    def is_index(self) -> bool:
        """Whether the descriptor is of a whole index."""
        return self.media_type in media_types.INDEXES

    @property
    def reference(self) -> str:
        """The canonical reference of the image, or the empty string for an image without one.

        Another tool's entry has only ``ref.name``. A bare word there is by the spec a tag and names no repository
        (image-spec annotations.md), so only what has a slash or a colon is read as a reference.
        """
        name = self.annotations.get(REFERENCE)
        if name is None:
            name = self.annotations.get(REF_NAME, "")
            if "/" not in name and ":" not in name:
                return ""
        try:
            return str(Reference.parse(name))
        except InvalidReference:
            return ""

    @property
    def index_digest(self) -> Digest | None:
        """Digest of the top-level index that the image came from, if it came from one."""
        try:
            return parse_digest(self.annotations.get(INDEX_DIGEST, ""))
        except UsageError:
            return self.digest if self.is_index else None

    @property
    def pulled_at(self) -> str:
        """When it was pulled (RFC 3339), or the empty string for what another tool put here."""
        return self.annotations.get(PULLED_AT, "")


@dataclass(frozen=True, slots=True)
class LayoutIndex:
    """The whole of ``index.json``."""

    entries: tuple[Entry, ...]
    members: Mapping[str, object]


def new_entry(
    *,
    reference: Reference,
    digest: Digest,
    media_type: str,
    size: int,
    platform: Platform | None,
    index_digest: Digest | None,
    pulled_at: str,
) -> Entry:
    """Make the entry of an image that was just pulled, loaded or tagged."""
    annotations = {REFERENCE: str(reference), PULLED_AT: pulled_at}
    if index_digest is not None:
        annotations[INDEX_DIGEST] = index_digest
    bare = Entry(digest, media_type, size, platform, annotations, {"mediaType": media_type, "digest": digest})
    return described(bare, media_type=media_type, size=size, platform=platform)


def described(entry: Entry, *, media_type: str, size: int, platform: Platform | None) -> Entry:
    """Return an entry whose descriptor says this of its document."""
    members: dict[str, object] = {key: value for key, value in entry.members.items() if key != "platform"}
    members |= {"mediaType": media_type, "digest": entry.digest, "size": size}
    if platform is not None:
        fields = {
            "architecture": platform.architecture,
            "os": platform.os,
            "os.version": platform.os_version,
            "variant": platform.variant,
        }
        known = {key: value for key, value in fields.items() if value}
        listed = entry.members.get("platform")
        members["platform"] = listed | known if isinstance(listed, dict) else known  # os.features and the like stay
    return replace(entry, media_type=media_type, size=size, platform=platform, members=members)


def parse_index(content: bytes, *, name: str) -> LayoutIndex:
    """Read ``index.json``.

    Raises:
        IntegrityError: It is torn, has no list, or an entry is no descriptor.
    """
    try:
        members = members_of(content, name)
        if "manifests" not in members.mapping:
            raise corrupt(name, "it lists nothing, not even nothing")
        entries = tuple(parse_entry(Members(item, name)) for item in members.items("manifests"))
    except IntegrityError as error:
        raise IntegrityError(error.message, code="corrupt-index", hint=VERIFY_HINT) from error
    return LayoutIndex(entries, members.mapping)


def parse_entry(members: Members) -> Entry:
    """Read one descriptor of the index.

    Raises:
        IntegrityError: It is none.
    """
    descriptor = members.descriptor()
    annotations = members.child("annotations")
    return Entry(
        digest=descriptor.digest,
        media_type=descriptor.media_type,
        size=descriptor.size,
        platform=descriptor.platform,
        annotations={} if annotations is None else {key: annotations.text(key) for key in annotations.mapping},
        members=members.mapping,
    )


def serialize(index: LayoutIndex) -> bytes:
    """Write ``index.json``: ``ref.name`` on exactly one entry of each of our references, the host's platform first.

    Other tools take the first descriptor of a name, or call two ambiguous. Their own entries stay as they are, unless
    one has the name of one of ours: then it is one of that reference's.
    """
    named = _named(index.entries)
    manifests = [
        dict(entry.members)
        | ({"annotations": dict(entry.annotations)} if entry.annotations or "annotations" in entry.members else {})
        for entry in named
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        **index.members,
        "manifests": manifests,
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def with_entries(index: LayoutIndex, added: Iterable[Entry]) -> LayoutIndex:
    """Return the index with entries put in the place of those of the same reference and platform.

    An entry of a whole index replaces all others of its reference.
    """
    entries = list(index.entries)
    for new in added:
        entries = [old for old in entries if not _replaces(new, old)]
        entries.append(new)
    return replace(index, entries=tuple(entries))


def without(index: LayoutIndex, removed: Callable[[Entry], bool]) -> LayoutIndex:
    """Return the index without the entries that a predicate is true for."""
    return replace(index, entries=tuple(entry for entry in index.entries if not removed(entry)))


def renamed(entry: Entry, reference: Reference) -> Entry:
    """Return the entry of the same image under another reference."""
    kept = {key: value for key, value in entry.annotations.items() if key != REF_NAME}
    return replace(entry, annotations={**kept, REFERENCE: str(reference)})


def _replaces(new: Entry, old: Entry) -> bool:
    if new.reference != old.reference:
        return False
    if new.is_index or old.is_index or new.platform is None or old.platform is None:
        return True
    return normalize(new.platform) == normalize(old.platform)


def _named(entries: tuple[Entry, ...]) -> list[Entry]:
    host = host_platform()
    ours = {entry.reference for entry in entries if REFERENCE in entry.annotations} - {""}
    bearer: dict[str, int] = {}
    for position, entry in enumerate(entries):
        name = _name(entry)
        is_host = entry.platform is not None and normalize(entry.platform) == host
        if name in ours and (name not in bearer or is_host):
            bearer[name] = position
    named = []
    for position, entry in enumerate(entries):
        name = _name(entry)
        if name not in ours:
            named.append(entry)
            continue
        rest = {key: value for key, value in entry.annotations.items() if key != REF_NAME}
        own = {REF_NAME: name} if bearer[name] == position else {}
        named.append(replace(entry, annotations={**own, **rest, REFERENCE: name}))
    return named


def _name(entry: Entry) -> str:
    return entry.reference if REFERENCE in entry.annotations else entry.annotations.get(REF_NAME, "")
