from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.cli.commands.crane import _environment
from micropod_img.config import Config
from tests.cli.command_line import process
from tests.support.images import image
from tests.support.processes import run
from tests.support.push import push
from tests.support.registries import make_certificates, make_credentials, start_distribution

if TYPE_CHECKING:
    from tests.support.registries import Registry


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["-h"],
        ["version"],
        ["digest", "--help"],
        ["nonsense"],
        ["--json"],
        ["version", "--json"],
        ["--", "version"],
        ["manifest", "--", "127.0.0.1:1/x"],
    ],
)
def test_crane_is_passed_every_argument_and_ends_as_it_does(arguments: list[str], crane: Path) -> None:
    own = run(crane, *arguments)
    passed = process("crane", *arguments)
    assert (passed.status, passed.out) == (own.returncode, own.stdout)
    # What it logs begins with the time.
    assert passed.err.splitlines()[1:] == own.stderr.splitlines()[1:]


def test_crane_reaches_registries_with_the_users_own_credentials(
    crane: Path, crane_registry: Registry, ref: str, tmp_path: Path
) -> None:
    assert crane
    (tmp_path / "config.json").write_text('{"auths": {"registry.example.com": {"auth": "dGVzdGVyOnNlY3JldA=="}}}')
    credentials = {"DOCKER_CONFIG": str(tmp_path)}
    assert process("crane", "auth", "get", "registry.example.com", extra=credentials).out.count("tester") == 1
    repository = ref.removeprefix(f"{crane_registry.host}/").rpartition(":")[0]
    assert process("crane", "ls", f"{crane_registry.host}/{repository}").out == "v1\n"


def test_a_crane_that_is_missing_is_told(crane: Path, tmp_path: Path) -> None:
    assert crane
    (tmp_path / "crane").write_text("#!/bin/sh\n")
    said = process("crane", "version", extra={"MICROPOD_TOOLS_DIR": str(tmp_path)})
    assert said.status == 11
    assert said.err.startswith("micropod-img: ")


def test_global_options_before_crane_are_ours(crane: Path, tmp_path: Path) -> None:
    assert crane
    said = process("--config", tmp_path / "absent.toml", "crane", "version")
    assert said.status == 2
    assert "absent.toml" in said.err


@pytest.mark.parametrize("own", [{}, {"SSL_CERT_FILE": "/own/bundle.pem", "REGISTRY_AUTH_FILE": "/own/auth.json"}])
def test_crane_is_told_the_files_of_the_configuration_unless_the_user_named_others(own: dict[str, str]) -> None:
    config = Config(auth_file=Path("/etc/auth.json"), ca_file=Path("/etc/ca.pem"))
    environment = {"HOME": "/root", "DOCKER_CONFIG": "/root/docker", **own}
    expected = {"SSL_CERT_FILE": "/etc/ca.pem", "REGISTRY_AUTH_FILE": "/etc/auth.json"}
    assert _environment(environment, config) == {**expected, **environment}


def test_crane_is_told_nothing_where_nothing_is_configured() -> None:
    assert _environment({"HOME": "/root"}, Config()) == {"HOME": "/root"}


def test_crane_trusts_the_authority_of_the_configuration_and_uses_its_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    tls, credentials = make_certificates(tmp_path), make_credentials(tmp_path)
    (tmp_path / "registry").mkdir()
    with start_distribution(tmp_path / "registry", htpasswd=credentials, tls=tls) as registry:
        push(registry, "team/app", "v1", image())
        given = base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {registry.host: {"auth": given}}}))
        config = tmp_path / "config.toml"
        config.write_text('auth-file = "auth.json"\nca-file = "ca.pem"\n')
        said = process(f"--config={config}", "crane", "ls", f"{registry.host}/team/app")
        assert (said.status, said.out) == (0, "v1\n"), said.err
