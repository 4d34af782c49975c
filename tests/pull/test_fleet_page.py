"""docs/fleet.md: what it gives to paste is read as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.pull.endpoints import endpoints
from micropod_img.pull.registries_conf import load_registries
from micropod_img.reference import Reference
from tests.support.registries import make_certificates, start_crane_registry, start_docker_registry

if TYPE_CHECKING:
    from micropod_img.pull.endpoints import Endpoint

PAGE = Path(__file__, "../../../docs/fleet.md").resolve().read_text()


def blocks(language: str, section: str) -> list[str]:
    """Return the code of one language in a section of the page."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def places(configuration: str, name: str, directory: Path) -> list[Endpoint]:
    """Return where a host with this registries.conf asks for an image."""
    file = directory / "registries.conf"
    file.write_text(configuration)
    registries = load_registries(file, {"HOME": str(directory)}, system_directory=directory)
    assert registries.warnings == ()
    return list(endpoints(Reference.parse(name), registries))


@pytest.mark.parametrize(
    ("section", "name", "mirror"),
    [
        ("A pull-through cache: distribution", "alpine", "cache.example.com:5000/library/alpine:latest"),
        ("Harbor, Artifactory, zot", "alpine", "harbor.example.com/hub/library/alpine:latest"),
        ("Harbor, Artifactory, zot", "ghcr.io/team/app:v1", "artifactory.example.com/docker-remote/team/app:v1"),
        ("Harbor, Artifactory, zot", "quay.io/team/app:v1", "zot.example.com/quay/team/app:v1"),
        ("Dragonfly", "alpine:3", "127.0.0.1:4001/library/alpine:3"),
        ("Kraken", "registry.example.com/team/app:v1", "127.0.0.1:16000/team/app:v1"),
    ],
)
def test_the_mirror_is_asked_first_and_the_registry_last(section: str, name: str, mirror: str, tmp_path: Path) -> None:
    (configuration,) = blocks("toml", section)
    first, last = places(configuration, name, tmp_path)
    assert (first.reference_text, first.is_mirror) == (mirror, True)
    assert first.insecure is mirror.startswith("127.0.0.1")
    assert (last.host, last.is_mirror, last.insecure) == (Reference.parse(name).domain, False, False)


def test_no_configuration_of_the_page_goes_unread() -> None:
    sections = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    with_registries = [section for section in sections if blocks("toml", section)]
    assert with_registries == ["A pull-through cache: distribution", "Harbor, Artifactory, zot", "Dragonfly", "Kraken"]
    assert PAGE.count("```toml") == sum(len(blocks("toml", section)) for section in sections)


def test_where_nobody_may_go_past_the_cache_it_stands_in_for_the_registry(tmp_path: Path) -> None:
    found = re.search(r'`(prefix = "[^`]*")`, `(location = "[^`]*")`', PAGE.replace("\n", " "))
    assert found is not None
    (only,) = places(f"[[registry]]\n{found[1]}\n{found[2]}\n", "alpine", tmp_path)
    assert (only.reference_text, only.is_mirror) == ("harbor.example.com/hub/library/alpine:latest", False)


def test_the_cache_takes_its_configuration(crane: Path, tmp_path: Path) -> None:
    (configuration,) = blocks("yaml", "A pull-through cache: distribution")
    tls = make_certificates(tmp_path)
    (tmp_path / "registry").mkdir()
    with start_crane_registry(crane, tmp_path) as upstream:
        for said, here in (
            ("/var/lib/docker-registry", str(tmp_path / "registry")),
            (":5000", "127.0.0.1:0"),
            ("/etc/docker/registry/cache.pem", str(tls.certificate)),
            ("/etc/docker/registry/cache.key", str(tls.key)),
            ("https://registry-1.docker.io", upstream.url),
        ):
            assert configuration.count(said) == 1
            configuration = configuration.replace(said, here)
        (tmp_path / "config.yml").write_text(configuration)
        with start_docker_registry(tmp_path) as port:
            assert port
        log = (tmp_path / "registry.log").read_text()
        assert f"proxy cache to {upstream.url}" in log
