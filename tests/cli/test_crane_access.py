"""The pinned crane, run by the user, reaches registries as a pull does: credentials, authorities, configuration."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.command_line import PROGRAM, Said, environment, process
from tests.support.credential_helper import make_helper
from tests.support.faults import basic_auth, on, silent
from tests.support.images import image
from tests.support.push import push
from tests.support.registries import Registry, make_certificates, make_credentials, start_distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.scripted import ScriptedRegistry

PASSWORD = "correct-horse"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with a password and a certificate of a private authority, under a name that crane asks by HTTPS."""
    directory = tmp_path_factory.mktemp("private-registry")
    tls = make_certificates(directory)
    with start_distribution(directory, htpasswd=make_credentials(directory), tls=tls) as registry:
        push(registry, "team/app", "v1", image())
        yield replace(registry, host=registry.host.replace("127.0.0.1", "LOCALHOST"))


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """A user of whom nothing is known."""
    (tmp_path / "home").mkdir()
    (tmp_path / "registries.conf").touch()
    return {
        "HOME": str(tmp_path / "home"),
        "DOCKER_CONFIG": str(tmp_path / "home/.docker"),
        "XDG_RUNTIME_DIR": str(tmp_path / "home"),
        "MICROPOD_AUTH_FILE": "",
        "REGISTRY_AUTH_FILE": "",
        "SSL_CERT_FILE": "",
        "MICROPOD_CONFIG": str(tmp_path / "config.toml"),
    }


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text('registries-conf = "registries.conf"\n')
    return file


def auths(**by_registry: tuple[str, str]) -> str:
    entries = {key: {"auth": base64.b64encode(":".join(pair).encode()).decode()} for key, pair in by_registry.items()}
    return json.dumps({"auths": entries})


def asked_for(registry: str, home: dict[str, str]) -> Said:
    return process("crane", "auth", "get", registry, extra=home)


@pytest.mark.usefixtures("crane", "config")
@pytest.mark.parametrize(
    "place", ["MICROPOD_AUTH_FILE", "REGISTRY_AUTH_FILE", "containers/auth.json", ".docker/config.json"]
)
def test_crane_finds_credentials_where_a_pull_finds_them(place: str, home: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "home" / ("auth.json" if place.isupper() else place)
    file.parent.mkdir(exist_ok=True)
    file.write_text(auths(**{"registry.example.com": ("tester", PASSWORD)}))
    extra = {**home, place: str(file)} if place.isupper() else home
    said = asked_for("registry.example.com", extra)
    assert json.loads(said.out) == {"Username": "tester", "Secret": PASSWORD}


@pytest.mark.usefixtures("crane", "config")
def test_the_first_place_decides_as_for_a_pull(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home/.docker").mkdir()
    (tmp_path / "home/.docker/config.json").write_text(auths(**{"registry.example.com": ("docker", PASSWORD)}))
    (tmp_path / "named.json").write_text(auths(**{"registry.example.com": ("named", PASSWORD)}))
    assert json.loads(asked_for("registry.example.com", home).out)["Username"] == "docker"
    (tmp_path / "config.toml").write_text('auth-file = "named.json"\n')
    assert json.loads(asked_for("registry.example.com", home).out)["Username"] == "named"


@pytest.mark.usefixtures("crane", "config")
@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/"])
def test_docker_hub_is_one_registry_for_crane_too(key: str, home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home/.docker").mkdir()
    (tmp_path / "home/.docker/config.json").write_text(auths(**{key: ("tester", PASSWORD)}))
    assert json.loads(asked_for("index.docker.io", home).out)["Username"] == "tester"


@pytest.mark.usefixtures("crane", "config")
def test_a_helper_of_the_user_is_asked(home: dict[str, str], tmp_path: Path) -> None:
    helper = make_helper(tmp_path / "bin", kept={"registry.example.com": ("tester", PASSWORD)})
    (tmp_path / "home/.docker").mkdir()
    (tmp_path / "home/.docker/config.json").write_text('{"credHelpers": {"registry.example.com": "test"}}')
    said = asked_for("registry.example.com", {**home, **helper.in_path()})
    assert json.loads(said.out) == {"Username": "tester", "Secret": PASSWORD}
    (call,) = helper.calls
    assert call.secrets_seen == []
    assert call.environment["PATH"] == f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    assert call.environment["DOCKER_CONFIG"] == home["DOCKER_CONFIG"]


@pytest.mark.usefixtures("crane", "config")
def test_what_is_wrong_with_a_file_is_said_and_crane_does_not_go_on_as_nobody(
    home: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home/.docker").mkdir()
    (tmp_path / "home/.docker/config.json").write_text("{")
    said = process("crane", "digest", "registry.invalid/app", extra=home)
    assert said.status == 1
    assert "config.json: the auth file is broken" in said.err


@pytest.mark.usefixtures("crane", "config")
@pytest.mark.parametrize(
    ("kind", "username"), [("identitytoken", "<token>"), ("registrytoken", None)], ids=["identity", "registry"]
)
def test_an_identity_token_is_handed_over_and_a_registry_token_cannot_be(
    kind: str, username: str | None, home: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home/.docker").mkdir()
    (tmp_path / "home/.docker/config.json").write_text(json.dumps({"auths": {"r.example.com": {kind: PASSWORD}}}))
    said = asked_for("r.example.com", home)
    if username is None:
        assert said.status == 1
        assert "is a registry token, which no helper can hand to crane" in said.err
        assert PASSWORD not in said.err
    else:
        assert json.loads(said.out) == {"Username": username, "Secret": PASSWORD}


@pytest.mark.usefixtures("crane", "config")
def test_login_and_logout_of_crane_are_the_users_own(home: dict[str, str], tmp_path: Path) -> None:
    words = ("crane", "auth", "login", "registry.example.com", "-u", "tester", "-p", PASSWORD)
    assert process(*words, extra=home).status == 0
    file = tmp_path / "home/.docker/config.json"
    assert "registry.example.com" in json.loads(file.read_text())["auths"]
    assert asked_for("registry.example.com", home).status == 0
    assert process("crane", "auth", "logout", "registry.example.com", extra=home).status == 0
    assert json.loads(file.read_text()).get("auths", {}) == {}


@pytest.fixture
def logged_in(private: Registry, home: dict[str, str]) -> dict[str, str]:
    """A user with a password for a part of the private registry, and its authority in certs.d."""
    assert private.credentials is not None
    assert private.ca is not None
    Path(home["DOCKER_CONFIG"]).mkdir()
    Path(home["DOCKER_CONFIG"], "config.json").write_text(auths(**{f"{private.host}/team": private.credentials}))
    trusted = Path(home["HOME"], ".config/containers/certs.d", private.host)
    trusted.mkdir(parents=True)
    (trusted / "ca.crt").write_bytes(private.ca.read_bytes())
    return home


@pytest.mark.usefixtures("crane", "config")
def test_a_private_registry_is_reached_with_its_authority_and_the_password_of_a_namespace(
    private: Registry, logged_in: dict[str, str]
) -> None:
    assert process("crane", "ls", f"{private.host}/team/app", extra=logged_in).out == "v1\n"
    said = process("crane", "ls", f"{private.host}/other/app", extra=logged_in)
    assert (said.status, "UNAUTHORIZED" in said.err) == (1, True)


@pytest.mark.usefixtures("crane")
def test_the_authority_of_the_configuration_is_trusted_besides_the_users_own(
    private: Registry, logged_in: dict[str, str], config: Path, tmp_path: Path
) -> None:
    assert private.ca is not None
    shutil.rmtree(Path(logged_in["HOME"], ".config/containers/certs.d"))
    words = ("crane", "ls", f"{private.host}/team/app")
    assert "certificate" in process(*words, extra=logged_in).err
    config.write_text(f'registries-conf = "registries.conf"\nca-file = "{private.ca}"\n')
    assert process(*words, extra=logged_in).out == "v1\n"
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other").ca
    config.write_text(f'registries-conf = "registries.conf"\nca-file = "{other}"\n')
    assert process(*words, extra={**logged_in, "SSL_CERT_FILE": str(private.ca)}).out == "v1\n"


@pytest.mark.usefixtures("crane", "config")
def test_an_image_is_copied_with_standard_input_and_output_as_they_are(
    private: Registry, logged_in: dict[str, str]
) -> None:
    name = f"{private.host}/team/app:v1"
    assert process("crane", "copy", name, f"{private.host}/team/copied:v1", extra=logged_in).status == 0
    done = subprocess.run(
        [*PROGRAM, "crane", "export", name, "-"],
        env=environment(logged_in),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.endswith(bytes(1024)), "a tar archive ends with two empty blocks"


@pytest.mark.usefixtures("crane", "config")
def test_a_registry_that_wants_a_client_certificate_is_refused(private: Registry, logged_in: dict[str, str]) -> None:
    trusted = Path(logged_in["HOME"], ".config/containers/certs.d", private.host)
    for name in ("client.cert", "client.key"):
        (trusted / name).touch()
    said = process("crane", "ls", f"{private.host}/team/app", extra=logged_in)
    assert said.status == 8
    assert "client certificates are not possible with crane" in said.err


@pytest.mark.usefixtures("crane", "config")
def test_a_registry_that_is_blocked_is_not_asked(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "registries.conf").write_text('[[registry]]\nlocation = "registry.invalid"\nblocked = true\n')
    said = process("crane", "copy", "alpine", "registry.invalid/app", extra=home)
    assert said.status == 4
    assert "registries.conf blocks registry.invalid" in said.err


def shown(registry: ScriptedRegistry) -> bool:
    return any("authorization" in request.headers for request in registry.requests)


@pytest.fixture
def plain(scripted: ScriptedRegistry, home: dict[str, str]) -> ScriptedRegistry:
    """A registry that speaks plain HTTP, for which the user has a password."""
    scripted.serve("team/app", "v1", image())
    scripted.faults = (basic_auth("tester", PASSWORD),)
    Path(home["DOCKER_CONFIG"]).mkdir()
    Path(home["DOCKER_CONFIG"], "config.json").write_text(auths(**{scripted.host: ("tester", PASSWORD)}))
    return scripted


@pytest.mark.usefixtures("crane")
def test_a_credential_goes_over_plain_http_only_if_that_was_said(
    plain: ScriptedRegistry, home: dict[str, str], config: Path
) -> None:
    words = ("crane", "manifest", plain.reference("team/app", "v1"))
    said = process(*words, extra=home)
    assert said.status == 1
    assert said.err.count("over plain HTTP, so it is not shown the credential") == 1
    assert "--insecure" in said.err
    assert not shown(plain)
    assert process(*words, "--insecure", extra=home).status == 0
    config.write_text(f'registries-conf = "registries.conf"\ninsecure-registries = ["{plain.host}"]\n')
    assert process(*words, extra=home).status == 0


@pytest.mark.usefixtures("crane")
def test_what_is_configured_as_insecure_does_not_make_another_registry_so(
    plain: ScriptedRegistry, home: dict[str, str], config: Path
) -> None:
    config.write_text(f'registries-conf = "registries.conf"\ninsecure-registries = ["{plain.host}"]\n')
    said = process("crane", "copy", plain.reference("team/app", "v1"), "registry.invalid/app", extra=home)
    assert said.status == 1
    assert f"{plain.host} is configured as insecure, but not all others are" in said.err
    assert not shown(plain)


@pytest.mark.usefixtures("config", "crane")
def test_the_secret_is_in_no_argument_environment_or_file_while_crane_runs(
    plain: ScriptedRegistry, home: dict[str, str], tmp_path: Path
) -> None:
    plain.faults = (*plain.faults, on("/manifests/", silent()))
    own = Path(home["DOCKER_CONFIG"], "config.json")
    encoded = json.loads(own.read_text())["auths"][plain.host]["auth"].encode()
    with subprocess.Popen(
        [*PROGRAM, "crane", "manifest", "--insecure", plain.reference("team/app", "v1")],
        env=environment({**home, "TMPDIR": str(tmp_path)}),
    ) as process_of_crane:
        while not shown(plain):
            assert process_of_crane.poll() is None
            time.sleep(0.01)
        seen = [
            (Path("/proc", str(process_of_crane.pid), what)).read_bytes() for what in ("cmdline", "environ", "comm")
        ]
        process_of_crane.kill()
    assert seen[2] == b"crane\n"
    assert not any(secret in text for text in seen for secret in (PASSWORD.encode(), encoded))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != own]
    assert not any(secret in path.read_bytes() for path in files for secret in (PASSWORD.encode(), encoded))
