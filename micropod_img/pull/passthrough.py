"""What `micropod-img crane` prepares, so that crane itself reaches registries as a pull of the same user would.

Crane becomes this process, so nothing can be cleaned up behind it, and nothing needs to be:

- Credentials are in no file. Crane is given a configuration that names one credential helper for all registries, which
  looks where a pull looks (`micropod_img.cli.credential_helper`). It is asked for ``host/repository``, then ``host``,
  of exactly those registries that crane is about to speak to.
- Certificates of private authorities are in a file without a name (memfd_create(2)) that crane inherits.

What crane has one switch for, for all registries of a call, holds only if it holds for all that the call names.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img.pull import certificates
from micropod_img.pull.crane_words import read_crane_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from micropod_img.config import Config
    from micropod_img.pull.hosts import Hosts

DIRECTORY: Final = Path(__file__).parent.parent / "_crane"
"""Holds crane's configuration and the helper that it names."""

HELPER_PYTHON: Final = "MICROPOD_HELPER_PYTHON"
HELPER_INSECURE: Final = "MICROPOD_HELPER_INSECURE"
HELPER_DOCKER_CONFIG: Final = "MICROPOD_HELPER_DOCKER_CONFIG"
_OF_THE_HELPER: Final = (HELPER_PYTHON, HELPER_INSECURE, HELPER_DOCKER_CONFIG)

# They change Docker's configuration, which must be the user's own then; no registry is asked.
_OWN_CONFIGURATION: Final = frozenset({"auth login", "auth logout"})


@dataclass(frozen=True, slots=True)
class Passthrough:
    """How crane is to be run.

    Attributes:
        arguments: Its words.
        environment: The user's environment, with what leads crane to credentials.
        authorities: PEM certificates that take the place of the system's bundle, which is among them; empty: none need
            to.
        notices: What the user should know, for people.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    authorities: bytes
    notices: tuple[str, ...]


def pass_through(words: Sequence[str], environment: Mapping[str, str], config: Config, hosts: Hosts) -> Passthrough:
    """Prepare a call of crane.

    Args:
        words: What the user wrote for crane.
        environment: The user's.
        config: The configuration.
        hosts: Which registries may be asked, and how.

    Raises:
        AuthError: registries.conf blocks a registry that is named.
        UnsupportedError: One wants a client certificate.
        UsageError: A file of certificates, or registries.conf, is broken.
    """
    environment = users_environment(environment)
    read = read_crane_words(words)
    if read.command in _OWN_CONFIGURATION:
        return Passthrough(tuple(words), dict(environment), b"", ())
    endpoints = [hosts.direct_endpoint(reference) for reference in read.references]
    insecure = read.insecure or (bool(endpoints) and all(endpoint.insecure for endpoint in endpoints))
    notices = []
    if not insecure and any(endpoint.insecure for endpoint in endpoints):
        names = ", ".join(dict.fromkeys(endpoint.host for endpoint in endpoints if endpoint.insecure))
        notices.append(f"{names} is configured as insecure, but not all others are; crane has --insecure for all")
    files = [
        file
        for host in dict.fromkeys(endpoint.host for endpoint in endpoints)
        for file in certificates.authority_files(host, ca_file=None, environment=environment)
    ]
    files += [config.ca_file] if config.ca_file is not None else []
    switch = ("--insecure",) if insecure and not read.insecure else ()
    return Passthrough(
        arguments=(*switch, *words),
        environment=_environment(environment, config, insecure=insecure),
        authorities=_with_the_systems(certificates.read_authorities(files), environment) if files else b"",
        notices=tuple(notices),
    )


def users_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that the user had before `pass_through`, for the helper, and for a crane within crane."""
    if HELPER_PYTHON not in environment:
        return dict(environment)
    restored = {name: value for name, value in environment.items() if name not in (*_OF_THE_HELPER, "DOCKER_CONFIG")}
    if HELPER_DOCKER_CONFIG in environment:
        restored["DOCKER_CONFIG"] = environment[HELPER_DOCKER_CONFIG]
    restored["PATH"] = environment.get("PATH", "").removeprefix(str(DIRECTORY)).removeprefix(":")
    return restored


def _environment(environment: Mapping[str, str], config: Config, *, insecure: bool) -> dict[str, str]:
    prepared = {**environment, HELPER_PYTHON: sys.executable}
    prepared.pop("DOCKER_AUTH_CONFIG", None)  # crane would look there first, and a pull does not look there
    prepared[HELPER_INSECURE] = "1" if insecure else ""
    if "DOCKER_CONFIG" in environment:
        prepared[HELPER_DOCKER_CONFIG] = environment["DOCKER_CONFIG"]
    if config.auth_file is not None:
        prepared["MICROPOD_AUTH_FILE"] = str(config.auth_file)
    prepared["DOCKER_CONFIG"] = str(DIRECTORY)
    # An empty part of it would be the working directory.
    prepared["PATH"] = ":".join(filter(None, (str(DIRECTORY), environment.get("PATH"))))
    return prepared


def _with_the_systems(authorities: bytes, environment: Mapping[str, str]) -> bytes:
    """Add what crane would trust anyway: a file that takes the place of a bundle must hold that too."""
    named = environment.get("SSL_CERT_FILE")
    for bundle in (Path(named),) if named else certificates.SYSTEM_BUNDLES:
        try:
            return bundle.read_bytes() + b"\n" + authorities
        except OSError:
            continue
    return authorities
