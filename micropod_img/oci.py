"""Models of the documents that come from outside (OCI image-spec 1.1; Docker image manifest v2, schema 2).

Crane accepts documents that it should not, and Go reads JSON keys without regard to case. What is ambiguous is refused
here, from the exact bytes whose digest was checked, before any tool acts on it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from micropod_img import media_types
from micropod_img.digest import Digest, parse_digest
from micropod_img.errors import IntegrityError, UnsafeError, UnsupportedError, UsageError
from micropod_img.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_LIMIT = 8 << 20
"""Bytes of the largest configuration that is read."""

_AMBIGUOUS_KEYS = ("config", "layers", "manifests", "mediaType", "schemaVersion", "fsLayers", "digest", "size", "urls")


def _checked_digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except UsageError as error:
        raise ValueError(error.message) from error


def _empty_if_null(value: object) -> object:
    return () if value is None else value


_Item = TypeVar("_Item")
_Digest = Annotated[Digest, AfterValidator(_checked_digest)]
# Go writes a slice that was never filled as null; its tools mean, and read, an empty list.
_List = Annotated[tuple[_Item, ...], BeforeValidator(_empty_if_null)]
_MAX_SIZE = (1 << 63) - 1


class _Document(BaseModel):
    # Unknown members are allowed by the specs and kept in the stored bytes; nothing is read from them.
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class PlatformFields(_Document):
    """``platform`` of a descriptor in an index (image-index.md)."""

    architecture: StrictStr = ""
    os: StrictStr = ""
    os_version: StrictStr = Field(default="", alias="os.version")
    variant: StrictStr = ""

    def value(self) -> Platform:
        """Return it as the plain value that the rest of the program uses."""
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant, os_version=self.os_version)


class Descriptor(_Document):
    """What one document says of another (descriptor.md)."""

    media_type: StrictStr = ""
    digest: _Digest
    size: Annotated[StrictInt, Field(ge=0, le=_MAX_SIZE)]
    urls: tuple[StrictStr, ...] = ()
    platform: PlatformFields | None = None
    artifact_type: StrictStr = ""


class Manifest(_Document):
    """An image manifest (manifest.md), or an artifact's."""

    schema_version: Literal[2]
    media_type: StrictStr = ""
    config: Descriptor
    layers: _List[Descriptor]
    artifact_type: StrictStr = ""

    @property
    def is_image(self) -> bool:
        """Whether this is an image; an artifact is told by its config's media type (manifest.md, artifactType)."""
        return self.config.media_type in media_types.CONFIGS


class Index(_Document):
    """An image index (image-index.md) or Docker's manifest list."""

    schema_version: Literal[2]
    media_type: StrictStr = ""
    manifests: _List[Descriptor]


class RootFilesystem(_Document):
    """``rootfs`` of a configuration (config.md)."""

    diff_ids: _List[_Digest] = Field(default=(), alias="diff_ids")


class ImageConfig(_Document):
    """An image's configuration (config.md): only what is needed before a container is made of it."""

    architecture: StrictStr = ""
    os: StrictStr = ""
    os_version: StrictStr = Field(default="", alias="os.version")
    variant: StrictStr = ""
    created: StrictStr | None = None
    rootfs: RootFilesystem = RootFilesystem()

    @property
    def platform(self) -> Platform:
        """What the image runs on, as its configuration says."""
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant, os_version=self.os_version)


def parse_document(content: bytes, *, name: str) -> Manifest | Index:
    """Read a manifest or an index.

    Args:
        content: The exact bytes whose digest was checked.
        name: What to call the document in errors: a reference or a digest.

    Returns:
        The document; which of the two it is, its members decide.

    Raises:
        UnsafeError: It has both layers and manifests (CVE-2021-41190), is ambiguous, or is over 4 MiB.
        UnsupportedError: It is schema 1.
        IntegrityError: It is not a manifest at all.
    """
    if len(content) > media_types.MANIFEST_LIMIT:
        raise too_large(name)
    members = _members(content, name)
    if members.get("schemaVersion") == 1 or members.get("mediaType") in media_types.SCHEMA_1:
        raise UnsupportedError(
            f"{name} is a schema 1 manifest, a format that registries gave up in 2019",
            code="schema-1",
            hint="ask its publisher to push the image again with a current tool",
        )
    described_as = members.get("mediaType")
    is_index = "manifests" in members
    if is_index and ("layers" in members or "config" in members or "fsLayers" in members):
        raise UnsafeError(
            f"{name} is both a manifest and an index, and different tools would see different images in it",
            code="ambiguous-manifest",
            hint="do not use this image; see CVE-2021-41190",
        )
    if (is_index and described_as in media_types.MANIFESTS) or (not is_index and described_as in media_types.INDEXES):
        raise UnsafeError(
            f"{name} says that it is a {described_as} and has the members of another type",
            code="ambiguous-manifest",
            hint="do not use this image; see CVE-2021-41190",
        )
    if not is_index and "config" not in members and "layers" not in members:
        kind = f" of type {described_as!r}" if isinstance(described_as, str) else ""
        raise UnsupportedError(f"{name} is a document{kind}, not an image", code="not-an-image")
    try:
        return Index.model_validate(members) if is_index else Manifest.model_validate(members)
    except ValidationError as error:
        _refuse(error, name)


def parse_config(content: bytes, *, name: str) -> ImageConfig:
    """Read an image's configuration.

    Args:
        content: The exact bytes whose digest was checked.
        name: What to call the image in errors.

    Raises:
        IntegrityError: It is not a configuration.
    """
    try:
        return ImageConfig.model_validate_json(content)
    except ValidationError as error:
        _refuse(error, f"the configuration of {name}")


def too_large(name: str) -> UnsafeError:
    """Return the error for a manifest that is over the limit."""
    return UnsafeError(
        f"the manifest of {name} is larger than {media_types.MANIFEST_LIMIT >> 20} MiB",
        code="manifest-too-large",
        hint="no real image needs that; do not use it",
    )


def _refuse(error: ValidationError, name: str) -> NoReturn:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    raise IntegrityError(
        f"{name} is malformed: {where}: {first['msg']}", code="malformed-document", detail=str(error)
    ) from error


def _members(content: bytes, name: str) -> Mapping[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len({key.lower() for key in members}) != len(pairs) and _is_ambiguous([key for key, _ in pairs]):
            raise UnsafeError(
                f"{name} names the same member twice, and different tools would see different images in it",
                code="ambiguous-manifest",
                hint="do not use this image",
            )
        return members

    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        document: object = json.loads(content, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} is not JSON", code="malformed-document", detail=str(error)) from error
    if not isinstance(document, dict):
        raise IntegrityError(f"{name} is not a JSON object", code="malformed-document")
    for key in _AMBIGUOUS_KEYS:
        if any(other.lower() == key.lower() and other != key for other in document):
            raise UnsafeError(
                f"{name} spells {key!r} in a way that different tools read differently",
                code="ambiguous-manifest",
                hint="do not use this image",
            )
    return document


def _is_ambiguous(keys: list[str]) -> bool:
    lowered = [key.lower() for key in keys]
    return any(lowered.count(key.lower()) > 1 for key in _AMBIGUOUS_KEYS)
