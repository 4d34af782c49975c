"""Real registries on loopback: crane's own, and Debian's docker-registry (distribution)."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.processes import require_program, run, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Registry:
    """A registry that listens: its ``host`` (with port), and what a client needs to be let in."""

    host: str
    log: Path
    credentials: tuple[str, str] | None = None
    ca: Path | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.ca is None else 'https'}://{self.host}"

    @property
    def tls_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    def reference(self, repository: str, tag: str = "latest") -> str:
        """Return the name of an image here; ``tag`` may also be a digest."""
        return f"{self.host}/{repository}{'@' if ':' in tag else ':'}{tag}"


@dataclass(frozen=True)
class Credentials:
    """The one user of a registry; ``htpasswd`` is the file that the registry reads."""

    user: str
    password: str
    htpasswd: Path


@dataclass(frozen=True)
class Certificates:
    """A private CA's certificate, and a certificate with its key that it signed for loopback names."""

    ca: Path
    certificate: Path
    key: Path


@contextlib.contextmanager
def start_crane_registry(crane: Path, directory: Path, *, disk: Path | None = None) -> Iterator[Registry]:
    """Run ``crane registry serve``, in memory unless ``disk`` names a directory that exists."""
    log = directory / "crane-registry.log"
    argv = [crane, "registry", "serve", "--address", "127.0.0.1:0", *(("--disk", disk) if disk else ())]
    with server(argv, ready=re.compile(r"serving on port (\d+)"), log=log) as match:
        yield Registry(f"127.0.0.1:{match[1]}", log)


@contextlib.contextmanager
def start_distribution(
    directory: Path,
    *,
    htpasswd: Credentials | None = None,
    tls: Certificates | None = None,
    proxy: str | None = None,
) -> Iterator[Registry]:
    """Run Debian's docker-registry with its storage, configuration and log in ``directory``.

    Args:
        directory: Exists, and is this registry's alone.
        htpasswd: Ask for these credentials (`make_credentials`).
        tls: Speak HTTPS with these certificates (`make_certificates`).
        proxy: URL of a registry that this one passes through and caches; it then refuses pushes.
    """
    storage = directory / "storage"
    storage.mkdir(exist_ok=True)
    configuration: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        # Without this it refuses every manifest with a foreign layer.
        "validation": {"manifests": {"urls": {"allow": ["^https?://"]}}},
        "http": {"addr": "127.0.0.1:0", "secret": "of no use", **_tls_section(tls)},
    }
    if htpasswd is not None:
        configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(htpasswd.htpasswd)}}
    if proxy is not None:
        configuration["proxy"] = {"remoteurl": proxy}
    file = directory / "config.yml"
    file.write_text(json.dumps(configuration))  # JSON is YAML
    with start_docker_registry(directory) as port:
        yield Registry(
            f"127.0.0.1:{port}",
            directory / "registry.log",
            credentials=(htpasswd.user, htpasswd.password) if htpasswd else None,
            ca=tls.ca if tls else None,
        )


@contextlib.contextmanager
def start_docker_registry(directory: Path) -> Iterator[int]:
    """Run Debian's docker-registry with the ``config.yml`` of a directory, and its log there; yield its port."""
    program = require_program("docker-registry", package="docker-registry")
    argv: list[str | Path] = [program, "serve", directory / "config.yml"]
    ready = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
    with server(argv, ready=ready, log=directory / "registry.log") as match:
        yield int(match[1])


def make_credentials(directory: Path, user: str = "tester") -> Credentials:
    """Make a password and an htpasswd file; distribution takes bcrypt only."""
    password = secrets.token_urlsafe()
    program = require_program("htpasswd", package="apache2-utils")
    made = run(program, "-niB", user, stdin=password)
    made.check_returncode()
    file = directory / "htpasswd"
    file.write_text(made.stdout)
    return Credentials(user, password, file)


def make_certificates(directory: Path, *, names: str = "DNS:localhost,IP:127.0.0.1,IP:::1") -> Certificates:
    """Make a CA and a certificate for ``names`` (openssl's subjectAltName), both good for a day."""
    program = require_program("openssl", package="openssl")
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    certificate, key = directory / "server.pem", directory / "server.key"
    request = (program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    run(*request, "-subj", "/CN=CA of the tests", "-keyout", ca_key, "-out", ca).check_returncode()
    leaf = ("-subj", "/CN=registry", "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=CA:FALSE")
    run(*request, "-CA", ca, "-CAkey", ca_key, *leaf, "-keyout", key, "-out", certificate).check_returncode()
    return Certificates(ca, certificate, key)


def _tls_section(tls: Certificates | None) -> Mapping[str, object]:
    return {"tls": {"certificate": str(tls.certificate), "key": str(tls.key)}} if tls else {}
