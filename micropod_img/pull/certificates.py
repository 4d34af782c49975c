"""Certificate authorities of private registries, for crane.

crane is a Go program: it trusts the bundle file that the system has, or ``SSL_CERT_FILE`` names, and what is in all
directories of ``SSL_CERT_DIR`` (crypto/x509, root_unix.go). So one more directory in that list adds authorities and
takes none away. Where they are looked for is what containers-certs.d(5) and Docker say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img.config import home_directory
from micropod_img.errors import UnsupportedError, UsageError
from micropod_img.fsutil import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SYSTEM_DIRECTORIES: Final = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
SYSTEM_BUNDLES: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
    Path("/etc/pki/tls/cacert.pem"),
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
    Path("/etc/ssl/cert.pem"),
)
"""Where Go finds the system's authorities, the first that is there (crypto/x509, root_linux.go)."""

_USER_DIRECTORY: Final = ".config/containers/certs.d"  # in the home directory; $XDG_CONFIG_HOME does not move it

# What Go reads without SSL_CERT_DIR (crypto/x509, root_linux.go); once the variable is set, it has to name these too.
_GO_CERTIFICATE_DIRECTORIES: Final = "/etc/ssl/certs:/etc/pki/tls/certs"
_PEM_HEADER: Final = b"-----BEGIN CERTIFICATE-----"
_FILE: Final = "certificate-authorities.pem"


def certificate_environment(
    host: str,
    *,
    ca_file: Path | None,
    environment: Mapping[str, str],
    private_directory: Path,
    system_directories: Sequence[Path] = SYSTEM_DIRECTORIES,
) -> dict[str, str]:
    """Make crane trust the private authorities of one registry, besides those that it trusts anyway.

    Args:
        host: The registry, ``host[:port]`` as in a reference.
        ca_file: PEM file that ``--ca-file`` names.
        environment: The user's; ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` in it are honoured, ``HOME`` is looked into.
        private_directory: Where the authorities are written for crane, if there are any; a directory of this registry
            alone, made if it is missing.
        system_directories: The system's certs.d directories.

    Returns:
        The variables that crane's environment must have; none where nothing but the system's authorities is in play.

    Raises:
        UnsupportedError: The registry wants a client certificate, which crane cannot show.
        UsageError: A file holds no certificate, or cannot be read.
        DiskError: The private directory cannot be written.
    """
    variables = {name: environment[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if environment.get(name)}
    files = authority_files(host, ca_file=ca_file, environment=environment, system_directories=system_directories)
    if not files:
        return variables
    if ":" in str(private_directory):
        raise UsageError(
            f"{private_directory}: the path of the store must not have a colon", hint="choose another --root"
        )
    content = read_authorities(files)
    with disk_errors(private_directory):
        private_directory.mkdir(mode=0o700, exist_ok=True)
        (private_directory / _FILE).write_bytes(content)
    directories = variables.get("SSL_CERT_DIR", _GO_CERTIFICATE_DIRECTORIES)
    return {**variables, "SSL_CERT_DIR": f"{directories}:{private_directory}"}


def authority_files(
    host: str,
    *,
    ca_file: Path | None,
    environment: Mapping[str, str],
    system_directories: Sequence[Path] = SYSTEM_DIRECTORIES,
) -> list[Path]:
    """List the files of private authorities that hold for a registry; the arguments are `certificate_environment`'s.

    Raises:
        UnsupportedError: The registry wants a client certificate, which crane cannot show.
        UsageError: There is half of a client certificate.
    """
    listings = _listings(host, environment, system_directories)
    if listings:
        _refuse_client_certificates(host, listings[0])
    files = [path for paths in listings for path in paths if path.suffix == ".crt"]
    return files if ca_file is None else [*files, ca_file]


def read_authorities(files: Iterable[Path]) -> bytes:
    """Return the PEM certificates of some files in one text.

    Raises:
        UsageError: One holds no certificate, or cannot be read.
    """
    return b"\n".join(_certificates(path) for path in files)


def _listings(host: str, environment: Mapping[str, str], system_directories: Sequence[Path]) -> list[list[Path]]:
    """List what is in each of the registry's directories that is there; Podman would look into the first one only."""
    home = home_directory(environment)
    directories = [*([home / _USER_DIRECTORY] if home is not None else []), *system_directories]
    listings = []
    for directory in directories:
        try:
            listings.append(sorted((directory / host).iterdir()))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # a directory that is for others to read is passed over, as by Podman
    return listings


def _refuse_client_certificates(host: str, listing: list[Path]) -> None:
    for path in listing:
        if path.suffix not in (".cert", ".key"):
            continue
        partner = path.with_suffix(".key" if path.suffix == ".cert" else ".cert")
        if partner in listing:
            raise UnsupportedError(
                f"{host} wants a client certificate ({path}); client certificates are not possible with crane",
                code="client-certificate",
                hint="where the registry can do without, take the pair away, or put its CA alone into a directory for"
                f" {host} in ~/{_USER_DIRECTORY}, which is looked into first",
                endpoint=host,
            )
        raise UsageError(
            f"{path}: half of a client certificate, without {partner.name}",
            code="config",
            hint="the certificate of an authority has the ending .crt",
        )


def _certificates(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {os.strerror(error.errno or 0)}", code="config") from error
    # Go passes over what is not PEM, and the user would look for the reason elsewhere.
    if _PEM_HEADER not in content:
        hint = f"if it is DER: openssl x509 -inform der -in {path} -out NEW.crt"
        raise UsageError(f"{path}: no PEM certificate in it", code="config", hint=hint)
    return content
