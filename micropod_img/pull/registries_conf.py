"""Where images really are: containers-registries.conf(5), version 2, read as Podman reads it.

The semantics are those of ``pkg/sysregistriesv2`` in containers/image 5.36. The main file is the one that was named,
else the user's, else the system's; the files of ``registries.conf.d`` are laid over it, the system's (unless the user's
main file was read) and then the user's. Aliases that Podman recorded by itself (``short-name-aliases.conf``) are not
read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from micropod_img.config import home_directory, registry_domain
from micropod_img.errors import UsageError
from micropod_img.toml_file import TomlTable, read_toml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PullFromMirror: TypeAlias = Literal["all", "digest-only", "tag-only"]
ShortNameMode: TypeAlias = Literal["enforcing", "permissive", "disabled"]

SYSTEM_DIRECTORY: Final = Path("/etc/containers")
_USER_DIRECTORY: Final = ".config/containers"  # in the home directory; $XDG_CONFIG_HOME does not move it
_VARIABLES: Final = ("CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH")

_GLOBAL_KEYS: Final = (
    "registry",
    "unqualified-search-registries",
    "short-name-mode",
    "aliases",
    "credential-helpers",
    "additional-layer-store-auth-helper",
)
_MIRROR_KEYS: Final = ("location", "insecure", "pull-from-mirror")
_REGISTRY_KEYS: Final = (*_MIRROR_KEYS, "prefix", "blocked", "mirror-by-digest-only", "mirror")
_PULL_FROM_MIRROR: Final = ("all", "digest-only", "tag-only")
_SHORT_NAME_MODES: Final = ("enforcing", "permissive", "disabled")
_AUTH_FILES: Final = "containers-auth.json"  # the one "helper" that stands for no helper

_VERSION_1_HINT: Final = (
    "write version 2: unqualified-search-registries = [...] for registries.search, and a [[registry]] table with"
    " location and insecure = true or blocked = true for each of the others"
)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A place to try before the registry itself: ``host[:port][/path]``, and for which references."""

    location: str
    insecure: bool = False
    pull_from_mirror: PullFromMirror = "all"


@dataclass(frozen=True, slots=True)
class Registry:
    """One ``[[registry]]`` table: what holds for the images whose names start with its prefix.

    Attributes:
        prefix: ``host[:port][/path][:tag|@digest]``, or ``*.host`` for all hosts below one.
        location: What stands in place of the prefix in requests; empty (only with a wildcard) leaves names as they are.
        insecure: Whether plain HTTP and any certificate will do at the location.
        blocked: Whether the location must not be asked.
        mirror_by_digest_only: Whether the mirrors are for references with a digest only.
        mirrors: What is tried first, in order.
        origin: The file, and line, that says so.
    """

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirror_by_digest_only: bool = False
    mirrors: tuple[Mirror, ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Alias:
    """What a short name stands for, and the file that says so; the value is empty where a file takes an alias back."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Registries:
    """What all registries.conf files say together.

    Attributes:
        registries: The tables, each prefix once.
        unqualified_search: Registries that a short name may be looked for in.
        unqualified_search_origin: The file that lists them.
        short_name_mode: What to do when there are several of them.
        aliases: Short names and what they stand for.
        warnings: What was passed over, each with file and line, for the user to read.
    """

    registries: tuple[Registry, ...] = ()
    unqualified_search: tuple[str, ...] = ()
    unqualified_search_origin: str = ""
    short_name_mode: ShortNameMode = "permissive"
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_registries(
    named: Path | None, environment: Mapping[str, str], *, system_directory: Path = SYSTEM_DIRECTORY
) -> Registries:
    """Read and merge the registries.conf files.

    Args:
        named: The main file that ``--registries-conf`` or the configuration names.
        environment: Looked into for ``CONTAINERS_REGISTRIES_CONF`` and ``HOME``.
        system_directory: The system's directory of containers configuration.

    Returns:
        What they say, and warnings about what in them has no effect.

    Raises:
        UsageError: A file that was named is missing; or one is broken, contradicts itself, or is in version 1.
    """
    registries = Registries()
    for table in _files(named, environment, system_directory):
        registries = _overlaid(registries, table)
    return registries


def registries_files(
    named: Path | None, environment: Mapping[str, str], *, system_directory: Path = SYSTEM_DIRECTORY
) -> tuple[Path, ...]:
    """Return which files `load_registries` reads, in order; arguments and errors are the same."""
    return tuple(table.path for table in _files(named, environment, system_directory))


def _files(named: Path | None, environment: Mapping[str, str], system_directory: Path) -> Iterator[TomlTable]:
    """Yield what there is to read, in order; the later win."""
    home = home_directory(environment)
    user_directory = home / _USER_DIRECTORY if home is not None else None
    drop_ins = [system_directory / "registries.conf.d"]
    if named is None:
        named = next((Path(path) for name in _VARIABLES if (path := environment.get(name))), None)
    if named is not None:
        main = read_toml(named)
        if main is None:
            raise UsageError(f"{named}: there is no such file", code="config", hint="it was named as registries.conf")
    elif user_directory is not None and (main := read_toml(user_directory / "registries.conf")) is not None:
        drop_ins = []
    else:
        main = read_toml(system_directory / "registries.conf")
    if main is not None:
        yield main
    if user_directory is not None:
        drop_ins.append(user_directory / "registries.conf.d")
    for directory in drop_ins:
        for file in _list_drop_ins(directory):
            if (table := read_toml(file)) is not None:  # one that vanished meanwhile was never there
                yield table


def _list_drop_ins(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".conf") and not entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"cannot read {directory}: {os.strerror(error.errno or 0)}", code="config") from error
    return [directory / name for name in sorted(names)]


def _overlaid(base: Registries, table: TomlTable) -> Registries:
    """Return what is known so far with what one more file says in its place."""
    if "registries" in table.values:
        raise table.error("registries", "version 1 of registries.conf is not supported", hint=_VERSION_1_HINT)
    warnings = [*base.warnings, *_unknown_keys(table, _GLOBAL_KEYS), *_unused_helpers(table)]
    tables = _registry_tables(table, warnings)
    search = _search(table)
    return Registries(
        registries=tuple(({entry.prefix: entry for entry in base.registries} | tables).values()),
        unqualified_search=base.unqualified_search if search is None else search,
        unqualified_search_origin=base.unqualified_search_origin
        if search is None
        else table.where("unqualified-search-registries"),
        short_name_mode=_short_name_mode(table) or base.short_name_mode,
        aliases={**base.aliases, **_aliases(table)},
        warnings=tuple(warnings),
    )


def _unknown_keys(table: TomlTable, known: tuple[str, ...]) -> Iterator[str]:
    for key, nearest in table.unknown(known):
        yield f"{table.where(key)}: unknown key {key} is ignored" + (f"; did you mean {nearest}?" if nearest else "")


def _unused_helpers(table: TomlTable) -> Iterator[str]:
    helpers = table.strings("credential-helpers") or ()
    if set(helpers) - {_AUTH_FILES}:
        yield f"{table.where('credential-helpers')}: credential-helpers is ignored; name helpers in the auth file"


def _registry_tables(table: TomlTable, warnings: list[str]) -> dict[str, Registry]:
    """Read the ``[[registry]]`` tables of one file by prefix, adding to the warnings.

    Raises:
        UsageError: One of them is broken, or contradicts another about a location.
    """
    by_prefix: dict[str, Registry] = {}
    by_location: dict[str, Registry] = {}
    for entry in table.tables("registry"):
        registry = _registry(entry, warnings)
        other = by_location.setdefault(registry.location or registry.prefix, registry)
        for key, differs in (
            ("insecure", registry.insecure != other.insecure),
            ("blocked", registry.blocked != other.blocked),
        ):
            if differs:
                place = registry.location or registry.prefix
                raise entry.error(key, f"{key} of {place} contradicts {other.origin}", hint="both must say the same")
        if registry.prefix in by_prefix:
            first = by_prefix[registry.prefix].origin
            warnings.append(f"{entry.where()}: the second table for prefix {registry.prefix} is ignored, after {first}")
            continue
        by_prefix[registry.prefix] = registry
    return by_prefix


def _registry(table: TomlTable, warnings: list[str]) -> Registry:
    warnings += _unknown_keys(table, _REGISTRY_KEYS)
    location = _location(table, "location")
    prefix = _location(table, "prefix") or location
    if not prefix:
        raise table.error(None, "a [[registry]] needs a location", hint='such as location = "docker.io"')
    is_wildcard = prefix.startswith("*.")
    if is_wildcard and any(character in prefix for character in "/@:"):
        raise table.error("prefix", f"{prefix} does not work as a prefix", hint="write *.example.com, and no more")
    if not location and not is_wildcard:
        hint = f'to leave it where it is, write location = "{prefix}"'
        raise table.error("prefix", f"the [[registry]] for {prefix} needs a location", hint=hint)
    if "*" in prefix.removeprefix("*."):
        warnings.append(f"{table.where('prefix')}: no name matches the prefix {prefix}: a * can only stand first")
    if table.string("pull-from-mirror"):
        raise table.error("pull-from-mirror", "pull-from-mirror belongs into a [[registry.mirror]] table")
    by_digest_only = table.boolean("mirror-by-digest-only")
    return Registry(
        prefix=prefix,
        location=location,
        insecure=table.boolean("insecure"),
        blocked=table.boolean("blocked"),
        mirror_by_digest_only=by_digest_only,
        mirrors=tuple(_mirror(entry, warnings, by_digest_only=by_digest_only) for entry in table.tables("mirror")),
        origin=table.where(),
    )


def _mirror(table: TomlTable, warnings: list[str], *, by_digest_only: bool) -> Mirror:
    warnings += _unknown_keys(table, _MIRROR_KEYS)
    location = _location(table, "location")
    if not location:
        raise table.error(None, "a [[registry.mirror]] needs a location")
    pull_from_mirror = table.string("pull-from-mirror") or ""
    if pull_from_mirror and by_digest_only:
        raise table.error(
            "pull-from-mirror",
            "pull-from-mirror and the registry's mirror-by-digest-only exclude each other",
            hint='take away mirror-by-digest-only, and give each mirror its pull-from-mirror = "digest-only"',
        )
    if pull_from_mirror not in ("", *_PULL_FROM_MIRROR):
        choices = ", ".join(_PULL_FROM_MIRROR)
        raise table.error("pull-from-mirror", f"pull-from-mirror must be one of {choices}, not {pull_from_mirror!r}")
    return Mirror(location, table.boolean("insecure"), cast("PullFromMirror", pull_from_mirror or "all"))


def _location(table: TomlTable, key: str) -> str:
    """Return a location or prefix without its trailing slashes, empty where it is absent."""
    value = (table.string(key) or "").rstrip("/")
    if value.startswith(("http://", "https://")):
        rest = value.partition("//")[2]
        raise table.error(key, f"{key} must not be a URL", hint=f'write "{rest}"; insecure = true allows plain HTTP')
    return value


def _search(table: TomlTable) -> tuple[str, ...] | None:
    key = "unqualified-search-registries"
    hosts = table.strings(key)
    if hosts is None:
        return None
    domains = [registry_domain(host.rstrip("/")) for host in hosts]
    for host, domain in zip(hosts, domains, strict=True):
        if domain is None:
            raise table.error(key, f"{host!r} is not a registry", hint="write host[:port]; the host has a dot")
    return tuple(domain for domain in domains if domain is not None)


def _short_name_mode(table: TomlTable) -> ShortNameMode | None:
    mode = table.string("short-name-mode")
    if not mode:
        return None
    if mode not in _SHORT_NAME_MODES:
        choices = ", ".join(_SHORT_NAME_MODES)
        raise table.error("short-name-mode", f"short-name-mode must be one of {choices}, not {mode!r}")
    return cast("ShortNameMode", mode)


def _aliases(table: TomlTable) -> dict[str, Alias]:
    """Read the aliases as they stand; the few that are ever used are checked then."""
    aliases = table.table("aliases")
    if aliases is None:
        return {}
    origin = str(table.path)
    return {name: Alias(aliases.string(name) or "", origin) for name in aliases.values}
