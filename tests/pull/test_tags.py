from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import AuthError, MicropodError, NotFoundError, UsageError
from micropod_img.pull.tags import sorted_as_versions
from tests.support.faults import basic_auth
from tests.support.images import image
from tests.support.push import push

if TYPE_CHECKING:
    from micropod_img.service import ImageService
    from tests.support.registries import Registry
    from tests.support.scripted import ScriptedRegistry

IMAGE = image()


@pytest.mark.parametrize(
    "tags",
    [
        ["1", "1.2", "1.9", "1.10-rc1", "1.10-rc2", "1.10", "1.10-alpine", "1.10.1", "2"],
        ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0"],
        ["v1.2", "v1.10"],
        ["3.9", "v3.10", "edge", "latest"],
        ["20240101", "20240930", "20241001"],
        ["a", "b", "b1", "b2", "b10"],
        ["1.5", "1.05.1"],
    ],
)
def test_tags_are_sorted_as_versions(tags: list[str]) -> None:
    assert sorted_as_versions(reversed(tags)) == tuple(tags)
    assert sorted_as_versions([*tags, *tags]) == tuple(tags)


def test_real_registries_list_their_tags(service: ImageService, registry: Registry, repository: str) -> None:
    for tag in ("1.10", "latest", "1.9"):
        push(registry, repository, tag, IMAGE)
    assert service.registries.tags(f"{registry.host}/{repository}") == ("1.9", "1.10", "latest")


def test_an_unknown_repository_is_said(service: ImageService, registry: Registry) -> None:
    with pytest.raises(NotFoundError) as caught:
        service.registries.tags(f"{registry.host}/no/such-repository")
    assert caught.value.code == "name-unknown"


@pytest.mark.parametrize("suffix", [":v1", f"@sha256:{'0' * 64}"])
def test_an_image_is_no_repository(suffix: str, service: ImageService) -> None:
    with pytest.raises(UsageError, match="not a repository"):
        service.registries.tags(f"registry.example.com/some/image{suffix}")


def test_tags_need_credentials_where_images_do(service: ImageService, scripted: ScriptedRegistry) -> None:
    scripted.faults = (basic_auth("user", "password"),)
    with pytest.raises(MicropodError) as caught:
        service.registries.tags(f"{scripted.host}/some/image")
    assert isinstance(caught.value, AuthError)
