from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import DiskError, UnsupportedError, UsageError
from micropod_img.pull.certificates import certificate_environment
from tests.support.processes import run
from tests.support.registries import Certificates, make_certificates, start_distribution

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.registries import Registry

HOST = "registry.example:5000"
GO_DIRECTORIES = "/etc/ssl/certs:/etc/pki/tls/certs"
PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


class Machine:
    """The directories that certificates of authorities are looked for in, and a private one for what was found."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.user = self.home / ".config" / "containers" / "certs.d"
        self.containers = directory / "etc" / "containers" / "certs.d"
        self.docker = directory / "etc" / "docker" / "certs.d"
        self.private = directory / "private"

    def write(self, directory: Path, name: str, content: str = PEM, *, host: str = HOST) -> Path:
        path = directory / host / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def environment(
        self, host: str = HOST, *, ca_file: Path | None = None, variables: dict[str, str] | None = None
    ) -> dict[str, str]:
        return certificate_environment(
            host,
            ca_file=ca_file,
            environment={"HOME": str(self.home)} | (variables or {}),
            private_directory=self.private,
            system_directories=(self.containers, self.docker),
        )

    def private_content(self) -> str:
        return "".join(file.read_text() for file in self.private.iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_private_authorities_nothing_is_set_or_written(machine: Machine) -> None:
    machine.write(machine.containers, "ca.crt", host="other.example")
    assert machine.environment() == {}
    assert not machine.private.exists()


def test_the_users_own_variables_are_passed_on(machine: Machine) -> None:
    own = {"SSL_CERT_FILE": "/srv/bundle.pem", "SSL_CERT_DIR": "/srv/certs:/opt/certs"}
    assert machine.environment(variables=own) == own
    assert machine.environment(variables={"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}) == {}


def test_authorities_are_added_to_those_that_are_trusted_anyway(machine: Machine) -> None:
    machine.write(machine.containers, "ca.crt")
    assert machine.environment() == {"SSL_CERT_DIR": f"{GO_DIRECTORIES}:{machine.private}"}
    own = {"SSL_CERT_FILE": "/srv/bundle.pem", "SSL_CERT_DIR": "/srv/certs"}
    assert machine.environment(variables=own) == {
        "SSL_CERT_FILE": "/srv/bundle.pem",
        "SSL_CERT_DIR": f"/srv/certs:{machine.private}",
    }


def test_the_authorities_of_all_places_are_added(machine: Machine, tmp_path: Path) -> None:
    machine.write(machine.user, "mine.crt", PEM.format("user"))
    machine.write(machine.containers, "a.crt", PEM.format("containers-a"))
    machine.write(machine.containers, "b.crt", PEM.format("containers-b").rstrip())
    machine.write(machine.docker, "ca.crt", PEM.format("docker"))
    machine.write(machine.docker, "readme.txt", "not looked at")
    ca_file = tmp_path / "extra.pem"
    ca_file.write_text(PEM.format("option"))
    machine.environment(ca_file=ca_file)
    lines = machine.private_content().split()
    assert [line for line in lines if line.isidentifier() or "-a" in line or "-b" in line] == [
        "user",
        "containers-a",
        "containers-b",
        "docker",
        "option",
    ]
    assert lines.count("CERTIFICATE-----") == 10


def test_the_private_directory_is_private(machine: Machine) -> None:
    machine.write(machine.containers, "ca.crt")
    machine.environment()
    assert machine.private.stat().st_mode & 0o777 == 0o700
    machine.environment()


def test_a_directory_that_may_not_be_read_is_passed_over(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, whom no mode bits stop.
    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    assert machine.environment() == {}


def test_a_file_without_a_pem_certificate_is_refused(machine: Machine, tmp_path: Path) -> None:
    der = machine.write(machine.docker, "ca.crt", "0\x82\x01")
    with pytest.raises(UsageError) as caught:
        machine.environment()
    assert caught.value.message == f"{der}: no PEM certificate in it"
    assert caught.value.hint == f"if it is DER: openssl x509 -inform der -in {der} -out NEW.crt"
    with pytest.raises(UsageError, match=f"cannot read {tmp_path / 'none.pem'}: No such file or directory"):
        machine.environment("other.example", ca_file=tmp_path / "none.pem")


def test_a_client_certificate_is_refused_in_so_many_words(machine: Machine) -> None:
    machine.write(machine.containers, "ca.crt")
    machine.write(machine.containers, "client.key", "")
    certificate = machine.write(machine.containers, "client.cert", "")
    with pytest.raises(UnsupportedError, match="client certificates are not possible with crane") as caught:
        machine.environment()
    assert str(certificate) in caught.value.message
    assert (caught.value.exit_status, caught.value.endpoint) == (8, HOST)
    assert machine.environment("other.example") == {}


def test_only_the_first_directory_that_is_there_decides_about_client_certificates(machine: Machine) -> None:
    machine.write(machine.docker, "client.key", "")
    machine.write(machine.docker, "client.cert", "")
    with pytest.raises(UnsupportedError):
        machine.environment()
    machine.write(machine.user, "ca.crt")
    assert machine.environment() == {"SSL_CERT_DIR": f"{GO_DIRECTORIES}:{machine.private}"}


@pytest.mark.parametrize(("name", "partner"), [("ca.cert", "ca.key"), ("client.key", "client.cert")])
def test_half_of_a_client_certificate_is_refused_with_what_was_meant(machine: Machine, name: str, partner: str) -> None:
    path = machine.write(machine.containers, name)
    with pytest.raises(UsageError) as caught:
        machine.environment()
    assert caught.value.message == f"{path}: half of a client certificate, without {partner}"
    assert caught.value.hint == "the certificate of an authority has the ending .crt"


def test_a_store_with_a_colon_in_its_path_is_refused(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a:b")
    machine.write(machine.containers, "ca.crt")
    with pytest.raises(UsageError, match="the path of the store must not have a colon"):
        machine.environment()


def test_a_private_directory_that_cannot_be_made_is_the_disks_fault(machine: Machine) -> None:
    machine.write(machine.containers, "ca.crt")
    machine.private = machine.home / "missing" / "private"
    with pytest.raises(DiskError):
        machine.environment()


# With crane, and registries whose authorities nobody else knows.


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificates, Certificates]:
    return make_certificates(tmp_path_factory.mktemp("one")), make_certificates(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def tls_registries(
    authorities: tuple[Certificates, Certificates], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Registry, Registry]]:
    one, other = authorities
    with (
        start_distribution(tmp_path_factory.mktemp("registry-of-one"), tls=one) as first,
        start_distribution(tmp_path_factory.mktemp("registry-of-other"), tls=other) as second,
    ):
        yield first, second


def is_trusted(crane: Path, registry: Registry, variables: dict[str, str]) -> bool:
    settings = (f"{name}={value}" for name, value in variables.items())
    ended = run("env", "--ignore-environment", *settings, crane, "catalog", registry.host)
    assert ended.returncode == 0 or "certificate signed by unknown authority" in ended.stderr
    return ended.returncode == 0


@pytest.mark.parametrize("place", ["user", "containers", "docker", "option"])
def test_crane_trusts_the_authority_of_the_registry_and_of_no_other(
    machine: Machine, crane: Path, tls_registries: tuple[Registry, Registry], place: str
) -> None:
    one, other = tls_registries
    assert one.ca is not None
    if place != "option":
        (directory := getattr(machine, place) / one.host).mkdir(parents=True)
        shutil.copy(one.ca, directory / "ca.crt")
    variables = machine.environment(one.host, ca_file=one.ca if place == "option" else None)
    assert is_trusted(crane, one, variables)
    assert not is_trusted(crane, one, {})
    assert not is_trusted(crane, other, variables)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_crane_goes_on_trusting_what_the_user_has_it_trust(
    machine: Machine, crane: Path, tls_registries: tuple[Registry, Registry], tmp_path: Path, variable: str
) -> None:
    one, other = tls_registries
    assert one.ca is not None
    assert other.ca is not None
    (directory := tmp_path / "own").mkdir()
    shutil.copy(other.ca, directory / "ca.pem")
    own = {variable: str(other.ca if variable == "SSL_CERT_FILE" else directory)}
    variables = machine.environment(one.host, ca_file=one.ca, variables=own)
    assert is_trusted(crane, one, variables)
    assert is_trusted(crane, other, variables)
