"""How one registry is reached for one call: which name crane is told, with which credential and certificates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.pull.certificates import certificate_environment
from micropod_img.pull.crane_credentials import (
    https_only_name,
    may_receive_credentials,
    private_docker_config,
    private_environment,
)
from micropod_img.pull.credentials import find_credential

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.pull.endpoints import Endpoint
    from micropod_img.pull.secret import Credential

# What decides how the network is reached is taken over from the user's environment, and nothing else.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")

_NOWHERE = "http://127.0.0.1:0"  # nobody can listen on port 0


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """What the user said, by options, configuration and environment, of reaching registries.

    Attributes:
        environment: The user's environment.
        given: A credential for this call.
        auth_file: Where credentials are looked for first.
        ca_file: Certificates of authorities to trust besides the system's.
    """

    environment: Mapping[str, str]
    given: Credential | None = None
    auth_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """One registry, as one crane process reaches it.

    Attributes:
        endpoint: The registry under the name that crane is told.
        environment: The whole environment of that process.
        credential_source: Where its credential came from, in words; None where it has none.
    """

    endpoint: Endpoint
    environment: Mapping[str, str]
    credential_source: str | None = None

    def without_plain_http(self) -> Access:
        """Return the way to the registry on which no redirect leads to plain HTTP.

        Crane takes the scheme from where ``https://HOST/v2/`` redirects to, and sends credentials over that. What it
        asks over plain HTTP goes to a proxy that is not there instead; only loopback, and what ``NO_PROXY`` names
        beside an ``HTTPS_PROXY``, it asks directly. A layer may come from storage with plain HTTP all the same, so
        this is for the first question to a registry, which would be redirected too.
        """
        environment = {**self.environment, "HTTP_PROXY": _NOWHERE, "http_proxy": _NOWHERE}
        if not (environment.get("HTTPS_PROXY") or environment.get("https_proxy")):
            environment = {name: value for name, value in environment.items() if name.lower() != "no_proxy"}
        return replace(self, environment=environment)

    def is_https_only(self, endpoint: Endpoint) -> bool:
        """Whether crane was told another name than the registry's own, so that a credential goes over HTTPS alone."""
        return self.endpoint.host != endpoint.host


def open_access(
    endpoint: Endpoint,
    settings: AccessSettings,
    directory: Path,
    *,
    anonymous: bool = False,
    timeout: float | None = None,
    cancellation: Cancellation | None = None,
) -> Access:
    """Prepare a private place in which crane finds what this registry needs, and nothing of the user's besides.

    Args:
        endpoint: The registry.
        settings: What the user said.
        directory: The private place, made if it is missing; for this endpoint alone.
        anonymous: Whether no credential is looked for.
        timeout: Seconds for a credential helper, if there are fewer than it has anyway.
        cancellation: Ends the wait for a credential helper.

    Raises:
        AuthError: A file of credentials is broken, or a helper failed.
        UnsupportedError: The registry wants a client certificate.
        UsageError: A file of certificates is none.
    """
    found = (
        None
        if anonymous
        else find_credential(
            endpoint.host,
            endpoint.repository,
            environment=settings.environment,
            # A credential that came with the call is for the registry that the user named, and for no mirror of it.
            given=None if endpoint.is_mirror else settings.given,
            auth_file=settings.auth_file,
            timeout=timeout,
            cancellation=cancellation,
        )
    )
    told = endpoint
    if found is not None and not may_receive_credentials(endpoint.host, insecure=endpoint.insecure):
        # Under its own name crane would fall back to plain HTTP, and send the credential there.
        host = https_only_name(endpoint.host)
        told = replace(endpoint, host=host, reference_text=host + endpoint.reference_text.removeprefix(endpoint.host))
    with fsutil.disk_errors(directory):
        fsutil.make_directory(directory)
    certificates = certificate_environment(
        endpoint.host,
        ca_file=settings.ca_file,
        environment=settings.environment,
        private_directory=directory / "certificates",
    )
    with fsutil.disk_errors(directory):
        private_docker_config(directory, told.host, None if found is None else found.credential)
    environment = {
        **{name: settings.environment[name] for name in PROXIES if name in settings.environment},
        **certificates,
        **private_environment(directory),
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
    }
    return Access(told, environment, None if found is None else found.source)
