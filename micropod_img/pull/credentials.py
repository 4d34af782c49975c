"""Which credential a registry gets, and from where."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img.invoker import invoking_uid
from micropod_img.pull.auth_files import AuthFile, keys_for, printable, read_auth_file, server_name
from micropod_img.pull.credential_helpers import HELPER_TIMEOUT, CredentialHelper
from micropod_img.pull.secret import Credential

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from micropod_img.cancellation import Cancellation

__all__ = [
    "GIVEN",
    "AuthFileLocation",
    "Credential",
    "FoundCredential",
    "HelperOfRegistry",
    "auth_file_locations",
    "docker_config_file",
    "find_credential",
    "helper_for",
]

GIVEN = "given for this call"
"""The source of a credential that came with the call."""

# Podman's place for a user's session that has no XDG_RUNTIME_DIR: services, and root by way of sudo.
_RUNTIME_DIRECTORIES = Path("/run/containers")


@dataclass(frozen=True, slots=True)
class FoundCredential:
    """A credential, and where it came from in words for people: a file and what in it, or ``given for this call``."""

    credential: Credential
    source: str


@dataclass(frozen=True, slots=True)
class AuthFileLocation:
    """A place where an auth file may be; ``explicit``: the user named this very file."""

    path: Path
    explicit: bool


def find_credential(
    host: str,
    repository: str,
    *,
    environment: Mapping[str, str],
    given: Credential | None = None,
    auth_file: Path | None = None,
    timeout: float | None = None,
    cancellation: Cancellation | None = None,
) -> FoundCredential | None:
    """Find the credential for a repository.

    The first place that has one decides: what was given for this call, then the files of `auth_file_locations`. In a
    file the most specific key decides: ``host/namespace/repository``, ``host/namespace``, ``host``. At each of them a
    helper in ``credHelpers`` stands in for the entry in ``auths`` (containers-auth.json(5)); ``credsStore`` is asked
    for the host, before its entry, as Docker does. A helper with an empty name means the entry, whatever ``credsStore``
    says. Files after the one that decides are not read.

    Args:
        host: The registry that will be asked, ``host[:port]``, and no other: a mirror has its own credentials.
        repository: The repository there, such as ``library/alpine``; empty for the registry as a whole.
        environment: The user's environment; helpers run in it.
        given: A credential that came with the call.
        auth_file: A file that takes the place of ``MICROPOD_AUTH_FILE``.
        timeout: Seconds for a helper, if there are fewer than it has anyway.
        cancellation: Ends the wait for a helper.

    Returns:
        The credential and its source; None when there is none.

    Raises:
        AuthError: A file is broken or cannot be read, one that was named explicitly is missing, or a helper failed.
    """
    if given is not None:
        return FoundCredential(given, GIVEN)
    for location in auth_file_locations(environment, auth_file):
        file = read_auth_file(location.path, required=location.explicit)
        if file is None:
            continue
        for namespace in _namespaces(repository):
            helper = helper_for(file, host, namespace, environment, timeout=timeout, cancellation=cancellation)
            found = _find_at(file, host, namespace, helper)
            if found is not None:
                return found
    return None


def auth_file_locations(environment: Mapping[str, str], auth_file: Path | None = None) -> tuple[AuthFileLocation, ...]:
    """Return where auth files may be, in the order in which they are asked.

    These are ``MICROPOD_AUTH_FILE``; ``REGISTRY_AUTH_FILE``; ``${XDG_RUNTIME_DIR}/containers/auth.json``, or Podman's
    ``/run/containers/UID/auth.json`` without that variable; ``${XDG_CONFIG_HOME:-~/.config}/containers/auth.json``;
    ``${DOCKER_CONFIG:-~/.docker}/config.json``. Those that the first two name must exist, as with Podman; but what they
    do not have is looked for in the others. A variable that is empty counts as not set.

    Args:
        environment: The user's environment.
        auth_file: A file that takes the place of ``MICROPOD_AUTH_FILE``.
    """
    named = (auth_file or _path(environment, "MICROPOD_AUTH_FILE"), _path(environment, "REGISTRY_AUTH_FILE"))
    runtime = _path(environment, "XDG_RUNTIME_DIR")
    configuration = _path(environment, "XDG_CONFIG_HOME") or _home(environment) / ".config"
    defaults = (
        runtime / "containers/auth.json" if runtime else _RUNTIME_DIRECTORIES / str(invoking_uid()) / "auth.json",
        configuration / "containers/auth.json",
        docker_config_file(environment),
    )
    return (
        *(AuthFileLocation(path, explicit=True) for path in named if path is not None),
        *(AuthFileLocation(path, explicit=False) for path in defaults),
    )


def docker_config_file(environment: Mapping[str, str]) -> Path:
    """Return where Docker, and crane, keep credentials: ``${DOCKER_CONFIG:-~/.docker}/config.json``."""
    return (_path(environment, "DOCKER_CONFIG") or _home(environment) / ".docker") / "config.json"


@dataclass(frozen=True, slots=True)
class HelperOfRegistry:
    """The credential helper that an auth file names for a registry.

    Attributes:
        helper: The program.
        servers: The names under which it may keep the credential; the first is for storing.
        named_in: The file, and where in it, in words for people.
        instead_of_entry: Whether an entry in ``auths`` does not count beside it.
    """

    helper: CredentialHelper
    servers: tuple[str, ...]
    named_in: str
    instead_of_entry: bool

    def get(self) -> Credential | None:
        """Return the credential that the helper has, if it has one.

        Raises:
            AuthError: As `CredentialHelper.get`.
        """
        answers = map(self.helper.get, self.servers)
        return next((credential for credential in answers if credential is not None), None)

    def store(self, credential: Credential) -> None:
        """Let the helper keep a credential.

        Raises:
            AuthError: As `CredentialHelper.store`.
        """
        self.helper.store(self.servers[0], credential)

    def erase(self) -> bool:
        """Let the helper forget what it has; return whether it had anything.

        Raises:
            AuthError: As `CredentialHelper.erase`.
        """
        kept = [server for server in self.servers if self.helper.get(server) is not None]
        for server in kept:
            self.helper.erase(server)
        return bool(kept)


def helper_for(
    file: AuthFile,
    host: str,
    namespace: str,
    environment: Mapping[str, str],
    *,
    timeout: float | None = None,
    cancellation: Cancellation | None = None,
) -> HelperOfRegistry | None:
    """Return the credential helper that a file names for a registry, or for a namespace in it.

    Args:
        file: The auth file.
        host: The registry.
        namespace: The namespace; empty for the registry as a whole, and only then ``credsStore`` counts.
        environment: The user's environment.
        timeout: Seconds for an answer, if there are fewer than it has anyway.
        cancellation: Ends the wait for the helper.
    """
    keys = keys_for(file.helpers, host, namespace)
    if keys:
        name, section = file.helpers[keys[0]], "credHelpers"
        # Podman stores under the key as it is written, Docker under its own name for the registry.
        servers = (keys[0],) if namespace else tuple(dict.fromkeys((keys[0], server_name(host))))
    else:
        name, section = ("" if namespace else file.default_helper or ""), "credsStore"
        servers = (server_name(host),)
    if not name:
        return None
    named_in = f"{file.path} ({section}: {printable(name)})"
    seconds = HELPER_TIMEOUT if timeout is None else min(timeout, HELPER_TIMEOUT)
    helper = CredentialHelper(name, named_in, environment, seconds, cancellation)
    return HelperOfRegistry(helper, servers, named_in, instead_of_entry=bool(keys))


def _home(environment: Mapping[str, str]) -> Path:
    return _path(environment, "HOME") or Path(pwd.getpwuid(invoking_uid()).pw_dir)


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    value = environment.get(name)
    return Path(value) if value else None


def _namespaces(repository: str) -> Iterator[str]:
    """Yield a repository and what it is in, ending with nothing: the registry itself."""
    while repository:
        yield repository
        repository = repository.rpartition("/")[0]
    yield ""


def _find_at(file: AuthFile, host: str, namespace: str, helper: HelperOfRegistry | None) -> FoundCredential | None:
    """Find the credential that a file, or the helper that it names, has for exactly this namespace of a registry."""
    if helper is not None:
        credential = helper.get()
        if credential is not None:
            return FoundCredential(credential, helper.named_in)
        if helper.instead_of_entry:
            return None
    for key in keys_for(file.auths, host, namespace):
        credential = file.credential(key)
        if credential is not None:
            return FoundCredential(credential, f"{file.path} (auths: {printable(key)})")
    return None
