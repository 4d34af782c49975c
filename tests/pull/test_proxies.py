"""A plain HTTP proxy, as ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` name it, between this host and a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from micropod_img.pull.options import PullOptions
from micropod_img.pull.secret import Credential
from tests.support.connect_proxy import ConnectProxy, connect_proxy
from tests.support.images import image
from tests.support.layers import layer
from tests.support.push import push
from tests.support.registries import Registry, make_certificates, make_credentials, start_distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.service import ImageService
    from tests.support.scripted import ScriptedRegistry

HOST = "registry.test"
IMAGE = image([layer({"etc/motd": b"welcome\n"})])


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    """The only one who finds `HOST`."""
    with connect_proxy() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        yield proxy


@pytest.fixture(scope="module")
def distant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with TLS and a password, whose certificate is for `HOST`."""
    directory = tmp_path_factory.mktemp("distant")
    tls = make_certificates(directory, names=f"DNS:{HOST},IP:127.0.0.1")
    with start_distribution(directory, htpasswd=make_credentials(directory), tls=tls) as registry:
        push(registry, "team/app", "v1", IMAGE)
        yield registry


def name_of(registry: Registry) -> str:
    return f"{HOST}:{registry.host.rpartition(':')[2]}"


def options(registry: Registry) -> PullOptions:
    assert registry.credentials is not None
    return PullOptions(ca_file=registry.ca, auth=Credential.from_password(*registry.credentials))


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_a_registry_is_reached_through_the_proxy_with_its_certificate_verified(
    variable: str, proxy: ConnectProxy, distant: Registry, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    report = service.pull_images([f"{name_of(distant)}/team/app:v1"], options(distant))
    assert [one.digest for one in report.images] == [IMAGE.digest]
    assert set(proxy.tunnels) == {name_of(distant)}
    assert proxy.forwarded == []


@pytest.mark.parametrize("exempt", [HOST, ".test", "*", f"other.example,{HOST}"])
def test_what_no_proxy_names_is_not_asked_through_it(
    exempt: str, proxy: ConnectProxy, distant: Registry, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", exempt)
    (failure,) = service.pull_images([f"{name_of(distant)}/team/app:v1"], options(distant)).failures
    assert failure.error.exit_status == 5
    assert proxy.tunnels == []


def test_loopback_is_never_asked_through_it(
    proxy: ConnectProxy, scripted: ScriptedRegistry, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(variable, proxy.url)
    service.pull_image(scripted.serve("some/image", "v1", IMAGE))
    assert (proxy.tunnels, proxy.forwarded) == ([], [])


@pytest.mark.parametrize("refusal", [403, 407, 502, 503])
def test_a_proxy_that_refuses_is_named_as_who_does(
    refusal: int, proxy: ConnectProxy, distant: Registry, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    proxy.refusal = refusal
    with pytest.raises(MicropodError, match="the proxy on the way to") as caught:
        service.pull_image(f"{name_of(distant)}/team/app:v1")
    assert (caught.value.code, caught.value.exit_status) == ("proxy", 5)
    assert "HTTPS_PROXY" in str(caught.value.hint)


def test_a_proxy_that_is_not_there_is_said(
    distant: Registry, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(MicropodError) as caught:
        service.pull_image(f"{name_of(distant)}/team/app:v1")
    assert caught.value.code == "proxy"


def test_plain_http_goes_through_the_proxy_for_plain_http(
    proxy: ConnectProxy, scripted: ScriptedRegistry, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    scripted.serve("some/image", "v1", IMAGE)
    host = f"{HOST}:{scripted.host.rpartition(':')[2]}"
    assert service.pull_image(f"{host}/some/image:v1", insecure=True).digest == IMAGE.digest
    assert all(url.startswith(f"http://{host}/v2/") for url in proxy.forwarded)
