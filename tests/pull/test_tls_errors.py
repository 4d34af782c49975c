"""What is wrong with a registry's certificate, in words that say what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from tests.support.processes import require_program, run
from tests.support.registries import Certificates, Registry, make_certificates, start_distribution

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from micropod_img.service import ImageService


@dataclass(frozen=True)
class Case:
    """A certificate, whether its authority is trusted, and what is said of it."""

    make: Callable[[Path], Certificates]
    is_trusted: bool
    message: str
    hint: str


def expired(directory: Path) -> Certificates:
    """Make a certificate that ended before today."""
    made = make_certificates(directory)
    openssl, request = require_program("openssl", package="openssl"), directory / "again.csr"
    run(openssl, "req", "-new", "-key", made.key, "-subj", "/CN=registry", "-out", request).check_returncode()
    names = directory / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    signed = ("-CA", made.ca, "-CAkey", directory / "ca.key", "-extfile", names, "-days", "-1")
    certificate = directory / "expired.pem"
    run(openssl, "x509", "-req", "-in", request, *signed, "-out", certificate).check_returncode()
    return replace(made, certificate=certificate)


def for_another(directory: Path) -> Certificates:
    return make_certificates(directory, names="DNS:other.example,IP:192.0.2.1")


def for_names_alone(directory: Path) -> Certificates:
    return make_certificates(directory, names="DNS:other.example")


CASES = {
    "unknown authority": Case(make_certificates, False, "is not trusted", "--ca-file"),
    "expired": Case(expired, True, "has expired", "this host's clock"),
    "another name": Case(for_another, True, "is not for that name", "-v shows which"),
    "no addresses": Case(for_names_alone, True, "is not for that name", "-v shows which"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# Crane asks loopback over plain HTTP too, and tells both answers; under the other name of it over HTTPS alone.
@pytest.mark.parametrize("address", ["127.0.0.1", "[::ffff:7f00:1]"])
def test_what_is_wrong_with_a_certificate_is_said(
    address: str, case: Case, service: ImageService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = case.make(tmp_path)
    if case.is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    with start_distribution(tmp_path, tls=certificates) as registry:
        host = host_of(registry, address)
        with pytest.raises(MicropodError, match=case.message) as caught:
            service.pull_image(f"{host}/team/app:v1")
    assert (caught.value.code, caught.value.exit_status) == ("tls", 5)
    assert case.hint in str(caught.value.hint)
    assert f"the TLS certificate of {host}" in caught.value.message


def host_of(registry: Registry, address: str) -> str:
    return f"{address}:{registry.host.rpartition(':')[2]}"
