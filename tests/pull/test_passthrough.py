from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import progress
from micropod_img.config import Config
from micropod_img.pull.hosts import HostOptions, Hosts
from micropod_img.pull.passthrough import DIRECTORY, Passthrough, pass_through, users_environment

if TYPE_CHECKING:
    from collections.abc import Mapping


def prepared(words: str, environment: Mapping[str, str], config: Config) -> Passthrough:
    return pass_through(words.split(), environment, config, Hosts(config, HostOptions(), environment, progress.silent))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "registries.conf").touch()
    return Config(registries_conf=tmp_path / "registries.conf", insecure_registries=("a.example", "b.example:5000"))


@pytest.mark.parametrize(
    ("words", "added", "is_told"),
    [
        ("ls a.example/x", True, False),
        ("copy a.example/x b.example:5000/x", True, False),
        ("copy a.example/x c.example/x", False, True),
        ("ls c.example/x", False, False),
        ("ls --insecure a.example/x", False, False),
        ("copy --insecure a.example/x c.example/x", False, False),
        ("version", False, False),
    ],
)
def test_insecure_is_added_where_it_holds_for_all(
    words: str, *, added: bool, is_told: bool, config: Config, tmp_path: Path
) -> None:
    found = prepared(words, {"HOME": str(tmp_path), "PATH": "/usr/bin"}, config)
    assert found.arguments == (*(["--insecure"] if added else []), *words.split())
    assert bool(found.notices) is is_told


@pytest.mark.parametrize("own", [{}, {"DOCKER_CONFIG": "/own/docker"}, {"DOCKER_AUTH_CONFIG": "{}"}])
def test_the_helper_gets_the_environment_that_the_user_had(
    own: Mapping[str, str], config: Config, tmp_path: Path
) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin", "EDITOR": "vi", **own}
    found = prepared("ls a.example/x", environment, config).environment
    assert found["PATH"] == f"{DIRECTORY}:/usr/bin"
    assert users_environment(found) == {name: environment[name] for name in environment if "AUTH" not in name}


def test_without_a_path_the_working_directory_is_none(config: Config, tmp_path: Path) -> None:
    for own in ({"HOME": str(tmp_path)}, {"HOME": str(tmp_path), "PATH": ""}):
        found = prepared("ls a.example/x", own, config).environment
        assert found["PATH"] == str(DIRECTORY)
        assert users_environment(found)["PATH"] == ""


def test_a_crane_within_crane_asks_the_users_places_and_not_itself(config: Config, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin"}
    outer = prepared("edit config a.example/x", environment, config)
    assert prepared("edit config a.example/x", outer.environment, config) == outer


def test_a_file_of_authorities_holds_the_systems_too(config: Config, tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_bytes(b"-----BEGIN CERTIFICATE-----own")
    trusted = tmp_path / ".config/containers/certs.d/c.example"
    trusted.mkdir(parents=True)
    (trusted / "ca.crt").write_bytes(b"-----BEGIN CERTIFICATE-----private")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin", "SSL_CERT_FILE": str(tmp_path / "own.pem")}
    assert prepared("ls d.example/x", environment, config).authorities == b""
    authorities = prepared("ls c.example/x", environment, config).authorities
    assert authorities.endswith(b"own\n-----BEGIN CERTIFICATE-----private")
    without = prepared("ls c.example/x", {**environment, "SSL_CERT_FILE": ""}, config).authorities
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    assert not bundle.exists() or without.startswith(bundle.read_bytes())
