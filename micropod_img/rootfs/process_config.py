"""How an image wants its process to run: the part of its configuration that a bundle is made of (OCI config.md).

Labels are not read: they become annotations of a bundle elsewhere, and runtimes act on annotations
(``run.oci.…``, ``org.systemd.property.…``), which an image must not decide.
"""

from __future__ import annotations

import posixpath
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictStr,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_pascal

from micropod_img.errors import IntegrityError
from micropod_img.rootfs.quoting import printable

_MAX_ITEMS: Final = 4096
_Item = TypeVar("_Item")


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a NUL, which would end it early")
    return text


def _empty_if_null(value: object) -> object:
    return () if value is None else value


def _keys(value: object) -> object:
    """Return the keys of an object that stands for a set (Go's ``map[string]struct{}``)."""
    return () if value is None else tuple(value) if isinstance(value, dict) else value


def _blank_if_null(value: object) -> object:
    return "" if value is None else value


def _nothing_if_null(value: object) -> object:
    return {} if value is None else value


def _variable(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name or not equals:
        raise ValueError("an environment variable is NAME=value")
    return text


_Text = Annotated[StrictStr, AfterValidator(_without_nul)]
_OptionalText = Annotated[_Text, BeforeValidator(_blank_if_null)]
_Variable = Annotated[_Text, AfterValidator(_variable)]
_List = Annotated[tuple[_Item, ...], BeforeValidator(_empty_if_null), Field(max_length=_MAX_ITEMS)]
_Set = Annotated[tuple[_Text, ...], BeforeValidator(_keys), Field(max_length=_MAX_ITEMS)]


class ProcessConfig(BaseModel):
    """``config`` of an image's configuration (config.md, "config")."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_pascal)

    user: _OptionalText = ""
    env: _List[_Variable] = ()
    entrypoint: _List[_Text] = ()
    cmd: _List[_Text] = ()
    working_dir: _OptionalText = ""
    exposed_ports: _Set = ()
    volumes: _Set = ()
    stop_signal: _OptionalText = ""

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, value: object) -> object:
        """Refuse a key that Go's tools, which do not regard case, read and this program does not."""
        known = {to_pascal(name) for name in cls.model_fields}
        if isinstance(value, dict):
            for key in value:
                if key not in known and str(key).lower() in {name.lower() for name in known}:
                    raise ValueError(f"{key!r} is spelled in a way that different tools read differently")
        return value

    @property
    def directory(self) -> str:
        """The working directory: absolute and without ``..``, as the runtime-spec wants it."""
        return _absolute(self.working_dir)

    @property
    def volume_directories(self) -> tuple[str, ...]:
        """Directories that hold what outlives a container, absolute, in alphabetical order."""
        return tuple(sorted({_absolute(volume) for volume in self.volumes} - {"/"}))


class RunnableConfig(BaseModel):
    """An image's configuration (config.md): what it runs on and how."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    architecture: _OptionalText = ""
    os: _OptionalText = ""
    config: Annotated[ProcessConfig, BeforeValidator(_nothing_if_null)] = ProcessConfig()


def parse_runnable_config(content: bytes, *, name: str) -> RunnableConfig:
    """Read how an image wants its process to run.

    Args:
        content: The bytes of its configuration, whose digest was checked.
        name: What to call the image in errors.

    Raises:
        IntegrityError: They are no configuration.
    """
    try:
        return RunnableConfig.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise IntegrityError(
            f"the configuration of {name} is malformed: {printable(where)}: {printable(first['msg'])}",
            code="malformed-document",
            hint="ask its publisher; other tools may read it differently",
            detail=printable(str(error)),
        ) from error


def _absolute(path: str) -> str:
    return "/" + posixpath.normpath(posixpath.join("/", path)).lstrip("/")
