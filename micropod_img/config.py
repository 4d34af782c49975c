"""What an operator sets once instead of on each command line, and where the store is.

A file that ``--config`` or ``$MICROPOD_CONFIG`` names is the only one read. Otherwise ``/etc/micropod/config.toml`` is
and, for an ordinary user, ``$XDG_CONFIG_HOME/micropod/config.toml``, whose keys win over the system's one by one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from micropod_img.errors import InvalidReference, UsageError
from micropod_img.invoker import invoking_uid
from micropod_img.limits import LIMIT_NAMES, InvalidLimitError, Limits, written_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from micropod_img.toml_file import TomlTable

ShortNames: TypeAlias = Literal["docker.io", "registries.conf"]

SYSTEM_CONFIG: Final = Path("/etc/micropod/config.toml")
SYSTEM_ROOT: Final = Path("/var/lib/micropod")

_MAX_SECONDS: Final = 1e9  # more would overflow what waits for it

_KEYS: Final = (
    "root",
    "jobs",
    "timeout",
    "stall-timeout",
    "insecure-registries",
    "short-names",
    "registries-conf",
    "auth-file",
    "ca-file",
    "tools-dir",
    "platform",
    *map(written_name, LIMIT_NAMES),
)


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration; every value has a default, and paths are absolute.

    Attributes:
        root: The state directory.
        jobs: How many images are fetched side by side.
        timeout: Seconds that one command may take; None for no limit.
        stall_timeout: Seconds without progress after which a transfer is given up.
        insecure_registries: ``host[:port]``, in lower case, of registries that may speak plain HTTP or show any
            certificate.
        short_names: What ``alpine`` means: Docker Hub's, or what registries.conf says.
        registries_conf: Read instead of the registries.conf of user and system.
        auth_file: Where credentials are looked for first.
        ca_file: Certificates of authorities to trust besides the system's.
        tools_dir: Where crane and umoci are, instead of those that came with the package.
        platform: ``os/arch[/variant]`` to choose instead of the host's, as it was written.
        limits: What images may take when they are unpacked.
    """

    root: Path | None = None
    jobs: int = 4
    timeout: float | None = None
    stall_timeout: float = 60.0
    insecure_registries: tuple[str, ...] = ()
    short_names: ShortNames = "docker.io"
    registries_conf: Path | None = None
    auth_file: Path | None = None
    ca_file: Path | None = None
    tools_dir: Path | None = None
    platform: str | None = None
    limits: Limits = field(default_factory=Limits)


def load_config(
    path: Path | None,
    environment: Mapping[str, str],
    *,
    uid: int | None = None,
    system_file: Path = SYSTEM_CONFIG,
) -> Config:
    """Read the configuration.

    Args:
        path: The file that ``--config`` names.
        environment: Looked into for ``MICROPOD_CONFIG``, ``XDG_CONFIG_HOME`` and ``HOME``.
        uid: Who asks; without it, who runs this. Only an ordinary user has a file of their own.
        system_file: The system's file.

    Returns:
        The configuration; the defaults where no file is.

    Raises:
        UsageError: A file that was named is missing; or a file is broken, or has a key or value that is not understood.
    """
    uid = os.geteuid() if uid is None else uid
    config = Config()
    for table in _tables(path, environment, uid, system_file):
        config = _overlaid(config, table, environment, uid)
    return config


def config_files(
    path: Path | None, environment: Mapping[str, str], *, uid: int, system_file: Path = SYSTEM_CONFIG
) -> tuple[Path, ...]:
    """Return which files `load_config` reads, in order; arguments and errors are the same."""
    return tuple(table.path for table in _tables(path, environment, uid, system_file))


def store_root(option: str | Path | None, environment: Mapping[str, str], config: Config, uid: int) -> Path:
    """Choose the state directory: the option, ``$MICROPOD_ROOT``, the configuration's, or the usual place.

    Args:
        option: What ``--root`` names; relative to the working directory.
        environment: Looked into for ``MICROPOD_ROOT``, ``XDG_DATA_HOME`` and ``HOME``.
        config: The configuration.
        uid: Whose store it is: uid 0 has the system's.

    Returns:
        An absolute path, which need not exist.

    Raises:
        UsageError: An empty path was given, or there is no home directory to put it in.
    """
    if option is not None:
        if not str(option):
            raise UsageError("--root is empty", hint="name a directory, or leave the option out")
        return Path(option).absolute()
    if (named := _named_by(environment, "MICROPOD_ROOT")) is not None:
        return named
    if config.root is not None:
        return config.root
    if uid == 0:
        return SYSTEM_ROOT
    data = _xdg_directory(environment, uid, "XDG_DATA_HOME", ".local/share")
    if data is None:
        raise UsageError("there is no home directory for the store", hint="set HOME, or name a directory with --root")
    return data / "micropod"


def home_directory(environment: Mapping[str, str], uid: int | None = None) -> Path | None:
    """Find the home directory: ``$HOME`` if that is absolute, else what the user database says.

    Args:
        environment: Looked into for ``HOME``.
        uid: Whose home; without it, that of who runs this.

    Returns:
        The directory, which need not exist; None for a user that has none.
    """
    if (home := environment.get("HOME", "")).startswith("/"):
        return Path(home)
    import pwd  # noqa: PLC0415 - few processes run without HOME

    try:
        return Path(pwd.getpwuid(invoking_uid() if uid is None else uid).pw_dir)
    except KeyError:
        return None


def _named_by(environment: Mapping[str, str], variable: str) -> Path | None:
    """Return the path that a variable names; an empty one was meant to name something."""
    value = environment.get(variable)
    if value is None:
        return None
    if not value:
        raise UsageError(f"${variable} is empty", hint="let it name a path, or unset it")
    return Path(value).absolute()


def _user_file(environment: Mapping[str, str], uid: int) -> Path | None:
    directory = _xdg_directory(environment, uid, "XDG_CONFIG_HOME", ".config")
    return directory / "micropod" / "config.toml" if directory is not None else None


def _xdg_directory(environment: Mapping[str, str], uid: int, variable: str, default: str) -> Path | None:
    """Find a base directory; one that is relative counts as unset (XDG Base Directory Specification 0.8)."""
    if (value := environment.get(variable, "")).startswith("/"):
        return Path(value)
    home = home_directory(environment, uid)
    return home / default if home is not None else None


def _tables(path: Path | None, environment: Mapping[str, str], uid: int, system_file: Path) -> Iterator[TomlTable]:
    """Yield what there is to read, in order; the later win."""
    named = path if path is not None else _named_by(environment, "MICROPOD_CONFIG")
    if named is not None:
        table = _read(named)
        if table is None:
            option = "--config" if path is not None else "$MICROPOD_CONFIG"
            raise UsageError(f"{named}: there is no such file", code="config", hint=f"{option} names it")
        yield table
        return
    for file in (system_file, None if uid == 0 else _user_file(environment, uid)):
        if file is not None and (table := _read(file)) is not None:
            yield table


def _read(path: Path) -> TomlTable | None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it is there, and must not be passed over: reading it says what is wrong
    from micropod_img.toml_file import read_toml  # noqa: PLC0415 - most machines have no such file

    return read_toml(path)


def _overlaid(base: Config, table: TomlTable, environment: Mapping[str, str], uid: int) -> Config:
    """Return the configuration with the keys of a file in place of its own."""
    for key, nearest in table.unknown(_KEYS):
        hint = f"did you mean {nearest}?" if nearest else f"the keys are {', '.join(_KEYS)}"
        # Not a warning: half of the keys decide about security, and a typo must not turn one off.
        raise table.error(key, f"unknown key {key}", hint=hint)
    home = home_directory(environment, uid)
    return Config(
        root=_path(table, "root", base.root, home),
        jobs=_jobs(table, base.jobs),
        timeout=_timeout(table, base.timeout),
        stall_timeout=_seconds(table, "stall-timeout", base.stall_timeout),
        insecure_registries=_registries(table, "insecure-registries", base.insecure_registries),
        short_names=_short_names(table, base.short_names),
        registries_conf=_path(table, "registries-conf", base.registries_conf, home),
        auth_file=_path(table, "auth-file", base.auth_file, home),
        ca_file=_path(table, "ca-file", base.ca_file, home),
        tools_dir=_path(table, "tools-dir", base.tools_dir, home),
        platform=_nonempty(table, "platform") or base.platform,
        limits=_limits(table, base.limits),
    )


def _nonempty(table: TomlTable, key: str) -> str | None:
    value = table.string(key)
    if value is not None and (not value or "\0" in value):
        raise table.error(key, f"{key} is empty" if not value else f"{key} contains a NUL character")
    return value


def _path(table: TomlTable, key: str, default: Path | None, home: Path | None) -> Path | None:
    """Return a path; ``~/`` stands for the home directory, and a relative one is relative to its file."""
    value = _nonempty(table, key)
    if value is None:
        return default
    if value == "~" or value.startswith("~/"):
        if home is None:
            raise table.error(key, f"there is no home directory to put in place of ~ in {key}")
        return (home / value[2:]).absolute()
    return (table.path.parent / value).absolute()


def _jobs(table: TomlTable, default: int) -> int:
    value = table.values.get("jobs", default)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise table.error("jobs", "jobs must be a whole number above 0")


def _timeout(table: TomlTable, default: float | None) -> float | None:
    if "timeout" not in table.values:
        return default
    return None if table.values["timeout"] == "none" else _seconds(table, "timeout", 0, alternative=', or "none"')


def _seconds(table: TomlTable, key: str, default: float, *, alternative: str = "") -> float:
    value = table.values.get(key, default)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MAX_SECONDS:
        return float(value)
    raise table.error(key, f"{key} must be a number of seconds above 0{alternative}")


def _limits(table: TomlTable, base: Limits) -> Limits:
    """Return the limits; each is a number, or a string as its option takes it."""
    written: dict[str, str] = {}
    for name in LIMIT_NAMES:
        value = table.values.get(written_name(name))
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            written[name] = str(value)
        elif value is not None:
            raise table.error(written_name(name), f'{written_name(name)} must be a number, or a string such as "2G"')
    try:
        return base.changed(written)
    except InvalidLimitError as error:
        raise table.error(error.name, f"{error.name}: {error.problem}", hint=error.hint) from error


def _short_names(table: TomlTable, default: ShortNames) -> ShortNames:
    match table.string("short-names"):
        case None:
            return default
        case "docker.io":
            return "docker.io"
        case "registries.conf":
            return "registries.conf"
    raise table.error("short-names", 'short-names must be "docker.io" or "registries.conf"')


def _registries(table: TomlTable, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    hosts = table.strings(key)
    if hosts is None:
        return default
    for host in hosts:
        if registry_domain(host) is None:
            raise table.error(key, f"{host!r} is not a registry", hint="write host[:port], such as localhost:5000")
    return tuple(host.lower() for host in hosts)


def registry_domain(text: str) -> str | None:
    """Return the domain that references use for a registry, or None for text that names none.

    Args:
        text: ``host[:port]``; as in a reference it has a dot, a port, or is ``localhost``.
    """
    from micropod_img.reference import Reference  # noqa: PLC0415 - needed only where registries are configured

    try:
        domain = Reference.parse(f"{text}/name/name").domain
    except InvalidReference:
        return None
    legacy = text == "index.docker.io" and domain == "docker.io"
    return domain if domain == text or legacy else None
