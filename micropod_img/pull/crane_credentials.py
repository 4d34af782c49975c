"""What of the user's credentials a crane process gets to see: the one that its registry needs, and only over HTTPS.

Facts about crane 0.21.9 that this rests on (measured; ``tests/pull/test_crane_credentials.py`` repeats most):

- It looks for ``HOST/REPOSITORY``, then ``HOST``, in ``$DOCKER_CONFIG/config.json``; Docker Hub's key is
  ``https://index.docker.io/v1/`` only. When neither ``$HOME/.docker`` nor ``$DOCKER_CONFIG`` has the file it reads
  ``$REGISTRY_AUTH_FILE`` and Podman's files under ``$XDG_RUNTIME_DIR`` and ``$XDG_CONFIG_HOME``. A file that says
  ``{}`` ends the search. ``DOCKER_AUTH_CONFIG`` goes before them all.
- It asks ``https://HOST/v2/`` first. For certain names (`may_fall_back_to_plain_http`) it asks ``http://`` too when
  that fails or takes 300 ms, goes on with whichever answers, and sends Basic credentials over it.
- ``--insecure`` allows that for every name, and turns the verification of certificates off as well.
- A registry that redirects ``https://HOST/v2/`` to ``http://HOST/v2/`` makes it go on over plain HTTP, with the
  credentials, whatever the name. No configuration of crane's prevents that; an ``HTTP_PROXY`` that nobody listens on
  does, except for loopback and what ``NO_PROXY`` names (`Access.without_plain_http`, ``tests/pull/test_downgrade.py``).
- Credentials go to a token server (``realm``) over HTTPS only, unless the registry itself was reached over plain HTTP.
"""

from __future__ import annotations

import json
import os
import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from micropod_img.pull.auth_files import DOCKER_HUB, DOCKER_HUB_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.pull.secret import Credential

_CONFIG = "config.json"
_PRIVATE_NETWORKS = tuple(IPv4Network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
_LOOPBACK_IPV4 = r"(127\.0\.0\.1)(:[0-9]{1,5})?"
_LOOPBACK_IPV6 = r"\[::1\](:[0-9]{1,5})?"
_LOCALHOST_DOMAIN = r"(.*\.localhost)(:[0-9]{1,5})?"


def private_docker_config(directory: Path, host: str, credential: Credential | None) -> None:
    """Write the ``config.json`` of one crane process.

    Args:
        directory: Private, existing, and without such a file; nothing of the user's is read or copied.
        host: The registry as crane will be told it (with `https_only_name`: that name).
        credential: What crane may send there; None: nothing.

    Raises:
        OSError: The file cannot be written.
    """
    descriptor = os.open(
        directory / _CONFIG, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        json.dump({"auths": {_crane_key(host): credential.entry()}} if credential else {}, stream)


def private_environment(directory: Path) -> dict[str, str]:
    """Return the variables that let crane find `private_docker_config` and no credential besides.

    All are set, so that they also hold against an environment that they are merged into.

    Args:
        directory: Where the configuration is.
    """
    return {
        "DOCKER_CONFIG": str(directory),
        "HOME": str(directory),
        "XDG_RUNTIME_DIR": str(directory),
        "XDG_CONFIG_HOME": str(directory),
        "REGISTRY_AUTH_FILE": str(directory / _CONFIG),
        "DOCKER_AUTH_CONFIG": "",
    }


def may_receive_credentials(host: str, *, insecure: bool) -> bool:
    """Whether crane may be given a credential for a registry that it is told by this name.

    Loopback is no exception: whoever on this host holds the port while the registry is down would be sent it.

    Args:
        host: The registry as crane will be told it.
        insecure: Whether the user said that plain HTTP is good enough, for this call or for this registry.
    """
    return insecure or not may_fall_back_to_plain_http(host)


def may_fall_back_to_plain_http(host: str) -> bool:
    """Whether crane tries plain HTTP, unasked, for a registry of this name (``name.Registry.Scheme``).

    It does for ``localhost:PORT``, ``*.localhost``, 127.0.0.1, ::1 and IPv4 addresses of RFC 1918; not for
    ``localhost`` without a port, other loopback or private addresses, and ``*.local``. Upper case makes another name.

    Args:
        host: ``host[:port]``.
    """
    return https_only_name(host) != host


def https_only_name(host: str) -> str:
    """Return another name of the same registry for which crane uses nothing but HTTPS, with verification.

    So that a registry with TLS on a private or loopback address can be sent credentials without ``--insecure``, which
    would end the verification. Other names are returned as they are. Certificates fit both names: Go compares host
    names without regard to case, and takes an IPv4 address and its IPv6-mapped form (RFC 4291, section 2.5.5.2) as
    equal. One thing does not work under the other name: crane refuses a token server at a private address, unless the
    registry has the very same name.

    Args:
        host: ``host[:port]``.
    """
    name, colon, port = host.partition(":")
    if re.fullmatch(_LOOPBACK_IPV4, host) or _is_private(name):
        high, low = divmod(int(IPv4Address(name)), 1 << 16)
        return f"[::ffff:{high:x}:{low:x}]{colon}{port}"
    if re.fullmatch(_LOOPBACK_IPV6, host):
        return host.replace("[::1]", "[0:0:0:0:0:0:0:1]")
    if (name == "localhost" and colon) or re.fullmatch(_LOCALHOST_DOMAIN, host):
        return name.removesuffix("localhost") + "LOCALHOST" + colon + port
    return host


def _crane_key(host: str) -> str:
    # Crane calls docker.io by its older name; a user who writes registry-1.docker.io gets no such help.
    return DOCKER_HUB_KEY if host in {DOCKER_HUB, "index.docker.io"} else host


def _is_private(name: str) -> bool:
    try:
        address = IPv4Address(name)
    except AddressValueError:
        return False
    return any(address in network for network in _PRIVATE_NETWORKS)
