"""What a short name means where registries.conf decides: aliases, and a search of several registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import AuthError, UnavailableError, UsageError
from micropod_img.pull.options import PullOptions
from micropod_img.pull.secret import Credential
from micropod_img.service import ImageService
from tests.support.faults import on
from tests.support.images import image, index
from tests.support.layers import layer
from tests.support.scripted import Response, ScriptedRegistry, scripted_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMAGE = image([layer({"etc/motd": b"welcome\n"})])
INDEX = index([IMAGE])


@pytest.fixture
def registries() -> Iterator[tuple[ScriptedRegistry, ScriptedRegistry]]:
    """Two registries, each with an image of its own."""
    with scripted_registry() as first, scripted_registry() as second:
        first.serve("first/app", "v1", INDEX)
        second.serve("second/app", "v1", INDEX)
        yield first, second


def asked(*registries: ScriptedRegistry) -> list[bool]:
    """Say which registries were asked for anything."""
    return [bool(registry.requests) for registry in registries]


@pytest.fixture
def short_names(store_root: Path, tmp_path: Path) -> Callable[[str], ImageService]:
    """Makes a service for which registries.conf, of this text, decides what short names mean."""

    def make(text: str, *, decides: bool = True) -> ImageService:
        (tmp_path / "registries.conf").write_text(text)
        config = tmp_path / "config.toml"
        says = 'short-names = "registries.conf"\n' if decides else ""
        config.write_text(f'registries-conf = "registries.conf"\nplatform = "linux/amd64"\n{says}')
        return ImageService(store_root, config)

    return make


def search(*registries: ScriptedRegistry, mode: str = "disabled") -> str:
    hosts = ", ".join(f'"{registry.host}"' for registry in registries)
    return f'unqualified-search-registries = [{hosts}]\nshort-name-mode = "{mode}"\n'


def test_a_short_name_is_searched_for_where_the_configuration_says_so(
    short_names: Callable[[str], ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    service = short_names(search(*registries))
    expected = registries[1].reference("second/app", "v1")
    assert service.pull_image("second/app:v1").ref == expected
    assert asked(*registries) == [True, True]
    for registry in registries:
        registry.forget_requests()
    assert service.pull_image("second/app:v1").ref == expected
    assert asked(*registries) == [False, False]


def test_an_alias_is_what_a_short_name_means(
    short_names: Callable[[str], ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    service = short_names(f'{search(registries[1])}[aliases]\n"app" = "{registries[0].host}/first/app"\n')
    assert service.pull_image("app:v1").ref == registries[0].reference("first/app", "v1")
    assert asked(*registries) == [True, False]


def test_several_places_to_search_are_refused_where_short_names_are_enforced(
    short_names: Callable[[str], ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    with pytest.raises(UsageError, match="ambiguous"):
        short_names(search(*registries, mode="enforcing")).pull_image("first/app:v1")
    assert asked(*registries) == [False, False]


def test_a_registry_that_is_down_does_not_let_another_one_say_what_a_short_name_is(
    short_names: Callable[[str], ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    down = 'unqualified-search-registries = ["127.0.0.1:1", "%s"]\nshort-name-mode = "disabled"\n'
    with pytest.raises(UnavailableError):
        short_names(down % registries[0].host).pull_image("first/app:v1")
    assert asked(*registries) == [False, False]


def test_without_that_a_short_name_is_docker_hubs(
    short_names: Callable[..., ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    block = '[[registry]]\nlocation = "docker.io"\nblocked = true\n'
    with pytest.raises(AuthError) as caught:
        short_names(search(*registries) + block, decides=False).pull_image("first/app:v1")
    assert caught.value.code == "blocked"
    assert asked(*registries) == [False, False]


def test_a_plan_searches_as_a_pull_does_and_says_what_each_place_answered(
    short_names: Callable[[str], ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    service = short_names(search(*registries))
    plan = service.plan_pull("second/app:v1")
    assert plan.ref == registries[1].reference("second/app", "v1")
    answers = [(place.host, place.answer) for place in plan.endpoints]
    assert answers[0][0] == registries[0].host
    assert "has no" in str(answers[0][1])
    assert answers[1:] == [(registries[1].host, "has it")]
    service.pull_image("second/app:v1")
    assert not service.plan_pull("second/app:v1").fetch


def test_a_plan_does_not_pass_over_a_registry_that_is_down(
    short_names: Callable[[str], ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    down = 'unqualified-search-registries = ["127.0.0.1:1", "%s"]\nshort-name-mode = "disabled"\n'
    with pytest.raises(UnavailableError):
        short_names(down % registries[0].host).plan_pull("first/app:v1")


def test_a_credential_for_the_call_is_not_shown_around(
    short_names: Callable[[str], ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    given = Credential.from_password("user", "password")
    service = short_names(search(*registries))
    with pytest.raises(UsageError, match="several registries"):
        service.pull_image("second/app:v1", auth=given, insecure=True)
    with pytest.raises(UsageError, match="several registries"):
        service.plan_pull("second/app:v1", PullOptions(auth=given))
    assert asked(*registries) == [False, False]


def test_tags_are_those_of_the_repository_that_a_pull_would_mean(
    short_names: Callable[[str], ImageService], registries: tuple[ScriptedRegistry, ScriptedRegistry]
) -> None:
    registries[0].faults = (on("/v2/first/app/tags/list", Response(200, {}, b'{"tags": ["v1"]}')),)
    service = short_names(f'{search(*registries)}[aliases]\n"app" = "{registries[0].host}/first/app"\n')
    assert service.registries.tags("app") == ("v1",)
    assert service.registries.repository("app").name == f"{registries[0].host}/first/app"
    with pytest.raises(UsageError, match="several registries"):
        service.registries.tags("first/app")
