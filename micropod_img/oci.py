"""Models of the documents that come from outside (OCI image-spec 1.1; Docker image manifest v2, schema 2).

Crane accepts documents that it should not, and Go reads JSON keys without regard to case. What is ambiguous is refused
here, from the exact bytes whose digest was checked, before any tool acts on it.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel

from micropod_img import media_types
from micropod_img.digest import Digest, parse_digest
from micropod_img.errors import IntegrityError, UnsafeError, UnsupportedError, UsageError
from micropod_img.limits import refuse_many_layers
from micropod_img.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_LIMIT = 8 << 20
"""Bytes of the largest configuration that is read."""

_LONGEST_SHOWN = 140

_DECISIVE_KEYS = frozenset({"config", "layers", "manifests", "mediaType", "schemaVersion", "fsLayers"})


def _checked_digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except UsageError as error:
        raise ValueError(error.message) from error


def _empty_if_null(value: object) -> object:
    return () if value is None else value


def _encodable(text: str) -> str:
    text.encode()  # half a surrogate pair, which JSON can spell, could be neither printed nor stored
    return text


_Item = TypeVar("_Item")
_Text = Annotated[StrictStr, AfterValidator(_encodable)]
_Digest = Annotated[Digest, AfterValidator(_checked_digest)]
# Go writes a slice that was never filled as null; its tools mean, and read, an empty list.
_List = Annotated[tuple[_Item, ...], FailFast(), BeforeValidator(_empty_if_null)]
_MAX_SIZE = (1 << 63) - 1


class _Repeating(dict[str, object]):
    """A JSON object in which names stand more than once; `repeated` are those names."""

    repeated: frozenset[str]


def _refuse_ambiguous(members: Mapping[str, object], names: frozenset[str], document: str) -> None:
    """Refuse members that Go would read as one of these names and Python would not, or that stand there twice.

    Go takes a name for a field's if it is the same under simple Unicode case folding, where the Kelvin sign is a k and
    the long s is an s. Maps, such as labels and annotations, have no fields: there names may differ in case alone.
    """
    repeated = members.repeated if isinstance(members, _Repeating) else frozenset()
    folded = {name.casefold() for name in names}
    for key in members:
        if key in repeated & names or (key not in names and key.casefold() in folded):
            raise UnsafeError(
                f"{document} names {key!r} twice, or in a way that different tools read differently",
                code="ambiguous-manifest",
                hint="do not use this image",
            )


class _Document(BaseModel):
    # Unknown members are allowed by the specs and kept in the stored bytes; nothing is read from them.
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)

    unread: ClassVar[frozenset[str]] = frozenset()
    """Members that are not read here, and that other tools read."""

    @model_validator(mode="before")
    @classmethod
    def _unambiguous(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, dict):
            names = cls.unread.union(field.alias or name for name, field in cls.model_fields.items())
            _refuse_ambiguous(value, names, str(info.context))
        return value


class PlatformFields(_Document):
    """``platform`` of a descriptor in an index (image-index.md)."""

    architecture: _Text = ""
    os: _Text = ""
    os_version: _Text = Field(default="", alias="os.version")
    variant: _Text = ""

    def value(self) -> Platform:
        """Return it as the plain value that the rest of the program uses."""
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant, os_version=self.os_version)


class Descriptor(_Document):
    """What one document says of another (descriptor.md)."""

    media_type: _Text = ""
    digest: _Digest
    size: Annotated[StrictInt, Field(ge=0, le=_MAX_SIZE)]
    urls: _List[_Text] = ()
    platform: PlatformFields | None = None
    artifact_type: _Text = ""


class Manifest(_Document):
    """An image manifest (manifest.md), or an artifact's."""

    schema_version: Literal[2]
    media_type: _Text = ""
    config: Descriptor
    layers: _List[Descriptor]
    artifact_type: _Text = ""

    @property
    def is_image(self) -> bool:
        """Whether this is an image; an artifact is told by its config's media type (manifest.md, artifactType)."""
        return self.config.media_type in media_types.CONFIGS


class Index(_Document):
    """An image index (image-index.md) or Docker's manifest list."""

    schema_version: Literal[2]
    media_type: _Text = ""
    manifests: _List[Descriptor]


class RootFilesystem(_Document):
    """``rootfs`` of a configuration (config.md)."""

    diff_ids: _List[_Digest] = Field(default=(), alias="diff_ids")


class ImageConfig(_Document):
    """An image's configuration (config.md): only what is needed before a container is made of it."""

    unread = frozenset({"config", "history"})

    architecture: _Text = ""
    os: _Text = ""
    os_version: _Text = Field(default="", alias="os.version")
    variant: _Text = ""
    created: _Text | None = None
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
        UnsafeError: It has both layers and manifests (CVE-2021-41190), is ambiguous, is over 4 MiB, or is an image of
            more than 500 layers.
        UnsupportedError: It is schema 1.
        IntegrityError: It is not a manifest at all.
    """
    if len(content) > media_types.MANIFEST_LIMIT:
        raise too_large(name)
    members = _members(content, name)
    _refuse_ambiguous(members, _DECISIVE_KEYS, name)
    named = members.get("mediaType")
    described_as = named if isinstance(named, str) else ""
    if members.get("schemaVersion") == 1 or described_as in media_types.SCHEMA_1:
        raise UnsupportedError(
            f"{name} is a schema 1 manifest, a format that registries gave up in 2019",
            code="schema-1",
            hint="ask its publisher to push the image again with a current tool",
        )
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
        kind = f" of type {described_as[:_LONGEST_SHOWN]!r}" if described_as else ""
        raise UnsupportedError(f"{name} is a document{kind}, not an image", code="not-an-image")
    try:
        model = Index if is_index else Manifest
        document = model.model_validate(members, context=name)
    except ValidationError as error:
        _refuse(error, name)
    if isinstance(document, Manifest) and document.is_image:
        refuse_many_layers(name, len(document.layers))
    return document


def parse_config(content: bytes, *, name: str) -> ImageConfig:
    """Read an image's configuration.

    Args:
        content: The exact bytes whose digest was checked.
        name: What to call the image in errors.

    Raises:
        UnsafeError: It is ambiguous.
        IntegrityError: It is not a configuration.
    """
    called = f"the configuration of {name}"
    try:
        return ImageConfig.model_validate(_members(content, called), context=called)
    except ValidationError as error:
        _refuse(error, called)


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
    def noting_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        repeating = _Repeating(members)
        counted = Counter(key for key, _ in pairs)
        repeating.repeated = frozenset(key for key, count in counted.items() if count > 1)
        return repeating

    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        # Not the bytes as they are: json.loads takes UTF-16 and UTF-32 too, and Go does not.
        text = content.decode("utf-8")
        document: object = json.loads(text, object_pairs_hook=noting_repeated, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} is not JSON", code="malformed-document", detail=str(error)) from error
    if not isinstance(document, dict):
        raise IntegrityError(f"{name} is not a JSON object", code="malformed-document")
    return document
