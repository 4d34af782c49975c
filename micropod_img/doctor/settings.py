"""What was set for micropod-img and for crane, in files and in the environment, and what of it is broken."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img.config import config_files
from micropod_img.diagnosis import Finding, fine, problem, warning
from micropod_img.errors import MicropodError
from micropod_img.invoker import invoking_uid
from micropod_img.pull.access import PROXIES
from micropod_img.pull.auth_files import read_auth_file
from micropod_img.pull.certificates import SYSTEM_BUNDLES, read_authorities
from micropod_img.pull.credentials import auth_file_locations
from micropod_img.pull.registries_conf import load_registries, registries_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.config import Config
    from micropod_img.pull.credentials import AuthFileLocation

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_PROXY_ADDRESS: Final = re.compile(r"((https?|socks5h?)://)?([^/@\s]*@)?[^/@\s]+/?\Z")


def configuration(config_file: Path | None) -> Finding:
    """Say which configuration files are read; they were understood.

    Args:
        config_file: The file that ``--config`` names.
    """
    return _read_from("configuration", config_files(config_file, os.environ, uid=invoking_uid()), "the defaults hold")


def registries_conf(config: Config) -> Finding:
    """Read the registries.conf files.

    Args:
        config: The configuration, which may name one.

    Raises:
        UsageError: One is missing or broken.
    """
    subject = "registries.conf"
    files = registries_files(config.registries_conf, os.environ)
    registries = load_registries(config.registries_conf, os.environ)
    if registries.warnings:
        return warning(subject, "; ".join(registries.warnings), "correct the file", files=tuple(map(str, files)))
    return _read_from(subject, files, "registries are asked themselves")


def _read_from(subject: str, files: tuple[Path, ...], without: str) -> Finding:
    names = tuple(map(str, files))
    return fine(subject, f"read from {', '.join(names)}" if names else f"no file: {without}", files=names)


def credentials(config: Config) -> Iterator[Finding]:
    """Read the files that hold credentials, and see who else can read them.

    Args:
        config: The configuration, which may name one.
    """
    found = False
    for location in auth_file_locations(os.environ, config.auth_file):
        finding = _auth_file(location)
        if finding is not None:
            found = True
            yield finding
    if not found:
        yield fine("credentials", "no file: registries are asked without, unless a command is given one")


def _auth_file(location: AuthFileLocation) -> Finding | None:
    path = str(location.path)
    try:
        file = read_auth_file(location.path, required=location.explicit)
    except MicropodError as error:
        return problem("credentials", error, path=path)
    if file is None:
        return None
    if location.path.stat().st_mode & _OTHERS and file.auths:
        return warning("credentials", f"{path} can be read by others", f"chmod 0600 {path}", path=path)
    helpers = {name for name in (*file.helpers.values(), file.default_helper) if name}
    missing = sorted(name for name in helpers if shutil.which(f"docker-credential-{name}") is None)
    if missing:
        programs = ", ".join(f"docker-credential-{name}" for name in missing)
        message = f"{path} names {programs}, and there is no such program"
        return warning("credentials", message, "install it, or take it out of the file", path=path)
    kept = f"{len(file.auths)} in the file" + (f", others with {', '.join(sorted(helpers))}" if helpers else "")
    return fine("credentials", f"{path}: {kept}", path=path)


def authorities(config: Config) -> Finding:
    """See whether there are certificates of authorities, without which no registry can be trusted.

    Args:
        config: The configuration, which may name more of them.

    Raises:
        UsageError: It names a file that holds none.
    """
    subject = "authorities"
    if config.ca_file is not None:
        read_authorities([config.ca_file])
    named = os.environ.get("SSL_CERT_FILE")
    bundle = next((path for path in ((Path(named),) if named else SYSTEM_BUNDLES) if path.is_file()), None)
    if bundle is None and not os.environ.get("SSL_CERT_DIR"):
        return warning(
            subject,
            f"{named} is missing" if named else "this system has no certificates of authorities",
            "install ca-certificates; until then no registry can be asked over HTTPS",
        )
    more = f" and {config.ca_file}" if config.ca_file is not None else ""
    return fine(subject, f"those of {bundle or os.environ['SSL_CERT_DIR']}{more}")


def proxies() -> Finding:
    """Say which proxies the environment names; their passwords are not shown."""
    given = {name: value for name in PROXIES if (value := os.environ.get(name))}
    shown = {name: _without_password(value) for name, value in given.items()}
    if not given:
        return fine("proxies", "none in the environment")
    for name, value in given.items():
        if name.lower() != "no_proxy" and _PROXY_ADDRESS.match(value) is None:
            return warning("proxies", f"{name}={shown[name]} is no proxy", "write http://host:port", **shown)
    names = {name.lower() for name in given}
    if "http_proxy" in names and "https_proxy" not in names:
        message = "there is a proxy for plain HTTP only, and registries speak HTTPS"
        return warning("proxies", message, "set HTTPS_PROXY as well", **shown)
    return fine("proxies", ", ".join(f"{name}={value}" for name, value in shown.items()), **shown)


def _without_password(address: str) -> str:
    user, at, host = address.rpartition("@")
    scheme, slashes, _ = user.partition("//")
    return f"{scheme}{slashes}…@{host}" if at and slashes else f"…@{host}" if at else host
