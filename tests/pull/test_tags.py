from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from micropod_img.errors import AuthError, MicropodError, NotFoundError, UsageError
from micropod_img.pull.hosts import HostOptions
from micropod_img.pull.tags import sorted_as_versions
from tests.support.faults import basic_auth, html, on, redirect, reset, silent, too_many_requests
from tests.support.images import image
from tests.support.push import push
from tests.support.scripted import Response, oci_error

if TYPE_CHECKING:
    from micropod_img.service import ImageService
    from tests.support.faults import Change
    from tests.support.registries import Registry
    from tests.support.scripted import RecordedRequest, ScriptedRegistry

IMAGE = image()
LIST = Response(200, {"Content-Type": "application/json"}, b'{"name": "some/image", "tags": ["1.10", "1.9"]}')


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


@pytest.mark.parametrize("name", ["registry.example.com", "127.0.0.1:5000", "localhost:5000"])
def test_a_registry_is_no_repository_of_docker_hub(name: str, service: ImageService) -> None:
    with pytest.raises(UsageError, match="is a registry, not a repository") as caught:
        service.registries.tags(name)
    assert caught.value.hint == f"micropod-img tags {name}/NAME"


def test_tags_need_credentials_where_images_do(service: ImageService, scripted: ScriptedRegistry) -> None:
    scripted.faults = (basic_auth("user", "password"),)
    with pytest.raises(MicropodError) as caught:
        service.registries.tags(f"{scripted.host}/some/image")
    assert isinstance(caught.value, AuthError)


@pytest.mark.usefixtures("_once")
@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (silent(), "timeout", 5),
        (html(200, "Log in"), "not-a-registry", 5),
        (oci_error(401, "UNAUTHORIZED"), "unauthorized", 4),
        (oci_error(403, "DENIED"), "denied", 4),
        (oci_error(404, "NAME_UNKNOWN"), "name-unknown", 3),
        (redirect("http://127.0.0.1:1/tags"), "connection-refused", 5),
        pytest.param(html(502), "server-error", 5, marks=pytest.mark.slow),  # crane repeats it for four seconds
        pytest.param(too_many_requests(), "rate-limited", 6, marks=pytest.mark.slow),  # the same
    ],
)
def test_a_fault_ends_in_the_right_status(
    fault: Response | Change, code: str, status: int, service: ImageService, scripted: ScriptedRegistry
) -> None:
    scripted.faults = (on("/tags/list", fault),)
    options = HostOptions(stall_timeout=1 if code == "timeout" else None)
    with pytest.raises(MicropodError) as caught:
        service.registries.tags(f"{scripted.host}/some/image", options=options)
    assert (caught.value.code, caught.value.exit_status) == (code, status), caught.value.detail


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("fault", [html(503), reset()], ids=["503", "reset"])
def test_a_fault_that_passes_is_asked_about_again(
    fault: Response | Change, service: ImageService, scripted: ScriptedRegistry
) -> None:
    scripted.faults = (on("/tags/list", LIST), on("/tags/list", fault, times=1))
    assert service.registries.tags(f"{scripted.host}/some/image") == ("1.9", "1.10")


def test_ten_thousand_tags_are_listed_page_by_page(service: ImageService, scripted: ScriptedRegistry) -> None:
    def pages(request: RecordedRequest, right: Response) -> Response:
        if "/tags/list" not in request.path:
            return right
        start = int(parse_qs(urlsplit(request.path).query).get("last", ["0"])[0])
        link = {"Link": f'</v2/some/image/tags/list?last={start + 1000}>; rel="next"'} if start < 9000 else {}
        tags = [f"1.{number}" for number in range(start, start + 1000)]
        return Response(200, {"Content-Type": "application/json", **link}, json.dumps({"tags": tags}).encode())

    scripted.faults = (pages,)
    found = service.registries.tags(f"{scripted.host}/some/image")
    assert found == tuple(f"1.{number}" for number in range(10_000))
