"""Read, without pydantic, the documents that the store holds.

What came from a registry was validated by `micropod_img.oci` before it was published, and its digest is checked at each
reading; what remains is to take members out of it, on a path where importing pydantic would be most of the time.
What another tool left in the layout goes through here too, so each member has its type checked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import media_types
from micropod_img.digest import Digest, parse_digest
from micropod_img.errors import IntegrityError, UsageError
from micropod_img.platforms import Platform
from micropod_img.store.blobs import REPAIR_HINT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class StoredDescriptor:
    """Digest, size in bytes, media type and platform, as one document says them of another."""

    digest: Digest
    size: int
    media_type: str
    platform: Platform | None


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest: the image's configuration and layers, bottom to top."""

    config: StoredDescriptor
    layers: tuple[StoredDescriptor, ...]

    @property
    def is_image(self) -> bool:
        """Whether this is an image; an artifact is told by its config's media type."""
        return self.config.media_type in media_types.CONFIGS


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """An index: what it lists."""

    manifests: tuple[StoredDescriptor, ...]


@dataclass(frozen=True, slots=True)
class StoredConfig:
    """A configuration: what the image runs on, when it was made, and its layers' diff IDs, bottom to top."""

    platform: Platform
    created: str
    diff_ids: tuple[Digest, ...]


class Members:
    """A JSON object whose members are taken out with their types checked.

    Args:
        value: What the JSON text was parsed to.
        name: What to call the document in errors.
    """

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, dict):
            raise corrupt(name, "it is not a JSON object")
        self.mapping: Mapping[str, object] = value
        self._name = name

    def text(self, key: str) -> str:
        """Return a string, or the empty string where there is none."""
        value = self.mapping.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise corrupt(self._name, f"{key} is not a string")
        return value

    def size(self, key: str) -> int:
        """Return a number of bytes."""
        value = self.mapping.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise corrupt(self._name, f"{key} is not a size")
        return value

    def digest(self, key: str) -> Digest:
        """Return a digest."""
        try:
            return parse_digest(self.text(key))
        except UsageError as error:
            raise corrupt(self._name, f"{key} is not a digest") from error

    def child(self, key: str) -> Members | None:
        """Return an object, or None where there is none."""
        value = self.mapping.get(key)
        return None if value is None else Members(value, self._name)

    def items(self, key: str) -> Sequence[object]:
        """Return a list, empty where there is none."""
        value = self.mapping.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise corrupt(self._name, f"{key} is not a list")
        return value

    def platform(self, key: str) -> Platform | None:
        """Return the platform of a descriptor, or None where it names none."""
        fields = self.child(key)
        return None if fields is None else fields.platform_fields()

    def platform_fields(self) -> Platform:
        """Return the platform that this object itself spells out."""
        return Platform(
            os=self.text("os"),
            architecture=self.text("architecture"),
            variant=self.text("variant"),
            os_version=self.text("os.version"),
        )

    def descriptor(self) -> StoredDescriptor:
        """Return this object as a descriptor."""
        return StoredDescriptor(
            self.digest("digest"), self.size("size"), self.text("mediaType"), self.platform("platform")
        )


def corrupt(name: str, what: str) -> IntegrityError:
    """Return the error for a stored document that is not what it was when it was stored."""
    return IntegrityError(f"{name} is corrupt: {what}", code="corrupt-document", hint=REPAIR_HINT)


def members_of(content: bytes, name: str) -> Members:
    """Parse a JSON object.

    Raises:
        IntegrityError: The text is not a JSON object.
    """
    try:
        return Members(json.loads(content), name)
    except (ValueError, RecursionError) as error:
        raise corrupt(name, "it is not JSON") from error


def read_document(content: bytes, name: str) -> StoredManifest | StoredIndex:
    """Parse a manifest or an index; which of the two it is, its members decide."""
    members = members_of(content, name)
    if "manifests" in members.mapping:
        return StoredIndex(tuple(Members(item, name).descriptor() for item in members.items("manifests")))
    config = members.child("config")
    if config is None:
        raise corrupt(name, "it has no configuration")
    layers = tuple(Members(item, name).descriptor() for item in members.items("layers"))
    return StoredManifest(config.descriptor(), layers)


def read_config(content: bytes, name: str) -> StoredConfig:
    """Parse a configuration."""
    members = members_of(content, name)
    rootfs = members.child("rootfs")
    diff_ids = () if rootfs is None else tuple(_diff_id(item, name) for item in rootfs.items("diff_ids"))
    return StoredConfig(members.platform_fields(), members.text("created"), diff_ids)


def _diff_id(value: object, name: str) -> Digest:
    try:
        return parse_digest(value if isinstance(value, str) else "")
    except UsageError as error:
        raise corrupt(name, "a diff ID is not a digest") from error
