from __future__ import annotations

import base64
import contextlib
import json
import time
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import AuthError, MicropodError, NotFoundError, UnavailableError
from micropod_img.progress import Notice
from micropod_img.pull import retry
from micropod_img.pull.secret import Credential
from micropod_img.service import ImageService
from tests.support import stores
from tests.support.faults import BLOBS, MANIFESTS, altered, basic_auth, cut, html, on
from tests.support.images import image, index
from tests.support.layers import layer
from tests.support.push import push
from tests.support.registries import start_crane_registry, start_distribution
from tests.support.scripted import ScriptedRegistry, oci_error, scripted_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from micropod_img.progress import Event
    from tests.support.scripted import Fault, Response

LAYER = layer({"etc/motd": b"welcome\n"})
IMAGE = image([LAYER])
INDEX = index([IMAGE])
NAME = "registry.invalid/team/app:v1"


@pytest.fixture
def mirrors() -> Iterator[tuple[ScriptedRegistry, ScriptedRegistry]]:
    """Two mirrors that have the image."""
    with scripted_registry() as first, scripted_registry() as second:
        first.serve("first/app", "v1", INDEX)
        second.serve("second/app", "v1", INDEX)
        yield first, second


@pytest.fixture
def primary(scripted: ScriptedRegistry) -> ScriptedRegistry:
    """The registry that stands in for the one of the name; it has the image too."""
    scripted.serve("team/app", "v1", INDEX)
    return scripted


@pytest.fixture
def with_mirrors(
    store_root: Path, tmp_path: Path, mirrors: tuple[ScriptedRegistry, ScriptedRegistry], primary: ScriptedRegistry
) -> Iterator[Callable[..., ImageService]]:
    """Makes a service that asks both mirrors, then the registry."""

    def make(*, insecure: bool = False, more: str = "") -> ImageService:
        first, second = mirrors
        flag = f"insecure = {str(insecure).lower()}"
        (tmp_path / "registries.conf").write_text(
            f"""
            [[registry]]
            prefix = "registry.invalid/team"
            location = "{primary.host}/team"
            {flag}
            {more}
            [[registry.mirror]]
            location = "{first.host}/first"
            {flag}
            [[registry.mirror]]
            location = "{second.host}/second"
            {flag}
            """
        )
        config = tmp_path / "config.toml"
        config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
        return ImageService(store_root, config)

    yield make
    assert stores.problems(store_root) == []


def asked(*registries: ScriptedRegistry) -> list[bool]:
    """Say which registries were asked for anything."""
    return [bool(registry.requests) for registry in registries]


def test_the_first_mirror_that_has_it_is_enough_and_the_logical_name_is_stored(
    with_mirrors: Callable[..., ImageService],
    mirrors: tuple[ScriptedRegistry, ScriptedRegistry],
    primary: ScriptedRegistry,
) -> None:
    service = with_mirrors()
    assert service.pull_image(NAME).ref == NAME
    assert asked(*mirrors, primary) == [True, False, False]
    assert stores.listed(service.root) == [(NAME, IMAGE.digest)]
    assert service.pull_image(NAME, policy="newer").digest == IMAGE.digest
    assert asked(*mirrors, primary) == [True, False, False]


@pytest.mark.parametrize(
    "fault",
    [
        on(MANIFESTS, oci_error(404, "MANIFEST_UNKNOWN")),
        on("/v2/", oci_error(401, "UNAUTHORIZED")),
        on(MANIFESTS, oci_error(403, "DENIED")),
        on(LAYER.digest, oci_error(404, "BLOB_UNKNOWN")),
        on(LAYER.digest, altered()),
        on(LAYER.digest, cut(10)),
        on(MANIFESTS, html(200)),
        on(f"{MANIFESTS}sha256", altered()),
    ],
    ids=["no manifest", "401", "403", "no layer", "wrong bytes", "cut", "a login page", "another manifest"],
)
@pytest.mark.usefixtures("_impatient")
def test_what_a_mirror_cannot_give_is_asked_of_the_next(
    fault: Fault,
    with_mirrors: Callable[..., ImageService],
    mirrors: tuple[ScriptedRegistry, ScriptedRegistry],
    primary: ScriptedRegistry,
) -> None:
    mirrors[0].faults = (fault,)
    events: list[Event] = []
    with_mirrors().pull_image(NAME, progress=events.append)
    assert asked(*mirrors, primary) == [True, True, False]
    assert any("the next place is asked" in event.message for event in events if isinstance(event, Notice))


@pytest.mark.parametrize("answer", [html(503), oci_error(429, "TOOMANYREQUESTS")], ids=["503", "429"])
def test_a_mirror_that_is_overloaded_is_not_waited_for(
    answer: Response,
    with_mirrors: Callable[..., ImageService],
    mirrors: tuple[ScriptedRegistry, ScriptedRegistry],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 100.0)
    mirrors[0].faults = (on(MANIFESTS, answer),)
    with_mirrors().pull_image(NAME)
    assert asked(*mirrors) == [True, True]


def test_a_mirror_that_is_down_is_passed_over(store_root: Path, tmp_path: Path, primary: ScriptedRegistry) -> None:
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nprefix = "registry.invalid"\nlocation = "{primary.host}"\n'
        '[[registry.mirror]]\nlocation = "127.0.0.1:1"\n'
    )
    (tmp_path / "config.toml").write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    assert ImageService(store_root, tmp_path / "config.toml").pull_image(NAME).digest == IMAGE.digest


@pytest.mark.usefixtures("_impatient")
def test_what_each_place_answered_is_in_the_error(
    with_mirrors: Callable[..., ImageService],
    mirrors: tuple[ScriptedRegistry, ScriptedRegistry],
    primary: ScriptedRegistry,
) -> None:
    mirrors[0].faults = (on(MANIFESTS, oci_error(403, "DENIED")),)
    mirrors[1].faults = (on(MANIFESTS, cut(10)),)
    primary.faults = (on(MANIFESTS, oci_error(404, "MANIFEST_UNKNOWN")),)
    with pytest.raises(NotFoundError) as caught:
        with_mirrors().pull_image(NAME)
    detail = str(caught.value.detail)
    for registry, words in ((mirrors[0], "does not allow"), (mirrors[1], "broke the connection"), (primary, "has no")):
        assert any(registry.host in line and words in line for line in detail.splitlines())
    assert mirrors[0].host in caught.value.message


def test_what_is_the_same_everywhere_is_asked_once(
    with_mirrors: Callable[..., ImageService],
    mirrors: tuple[ScriptedRegistry, ScriptedRegistry],
    primary: ScriptedRegistry,
) -> None:
    with pytest.raises(MicropodError) as caught:
        with_mirrors().pull_image(NAME, platform="linux/riscv64")
    assert caught.value.code == "no-such-platform"
    assert asked(mirrors[1], primary) == [False, False]


def test_a_blocked_registry_is_not_asked(
    with_mirrors: Callable[..., ImageService],
    mirrors: tuple[ScriptedRegistry, ScriptedRegistry],
    primary: ScriptedRegistry,
) -> None:
    for mirror in mirrors:
        mirror.faults = (on(MANIFESTS, oci_error(404, "MANIFEST_UNKNOWN")),)
    with pytest.raises(NotFoundError):
        with_mirrors(more="blocked = true").pull_image(NAME)
    assert asked(*mirrors, primary) == [True, True, False]


def test_a_blocked_registry_without_mirrors_is_refused(store_root: Path, tmp_path: Path) -> None:
    (tmp_path / "registries.conf").write_text('[[registry]]\nlocation = "registry.invalid"\nblocked = true\n')
    (tmp_path / "config.toml").write_text('registries-conf = "registries.conf"\n')
    with pytest.raises(AuthError) as caught:
        ImageService(store_root, tmp_path / "config.toml").pull_image(NAME)
    assert caught.value.code == "blocked"


def credentials_at(registry: ScriptedRegistry) -> set[str]:
    """Return what Basic credentials a registry was sent."""
    sent = {request.headers["authorization"] for request in registry.requests if "authorization" in request.headers}
    return {base64.b64decode(one.removeprefix("Basic ")).decode() for one in sent}


def test_each_place_is_sent_its_own_credential_and_no_other(
    with_mirrors: Callable[..., ImageService],
    mirrors: tuple[ScriptedRegistry, ScriptedRegistry],
    primary: ScriptedRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everyone = {"first": mirrors[0], "second": mirrors[1], "primary": primary}
    auths = {
        registry.host: {"auth": base64.b64encode(f"{user}:secret-of-{user}".encode()).decode()}
        for user, registry in everyone.items()
    }
    auths["registry.invalid"] = {"auth": base64.b64encode(b"logical:secret-of-logical").decode()}
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
    for user, registry in everyone.items():
        registry.faults = (basic_auth(user, f"secret-of-{user}"), on(BLOBS, oci_error(404, "BLOB_UNKNOWN")))
    primary.faults = primary.faults[:1]
    with_mirrors(insecure=True).pull_image(NAME)
    for user, registry in everyone.items():
        assert credentials_at(registry) == {f"{user}:secret-of-{user}"}


def test_a_credential_that_came_with_the_call_is_shown_to_no_mirror(
    with_mirrors: Callable[..., ImageService],
    mirrors: tuple[ScriptedRegistry, ScriptedRegistry],
    primary: ScriptedRegistry,
) -> None:
    for registry in (*mirrors, primary):
        registry.faults = (basic_auth("user", "password"),)
    given = Credential.from_password("user", "password")
    with_mirrors(insecure=True).pull_image(NAME, auth=given)
    assert [credentials_at(one) for one in (*mirrors, primary)] == [set(), set(), {"user:password"}]


def test_the_fleet_still_pulls_from_a_pull_through_cache_when_the_registry_is_gone(crane: Path, tmp_path: Path) -> None:
    for name in ("upstream", "cache"):
        (tmp_path / name).mkdir()
    config = tmp_path / "config.toml"
    config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    with contextlib.ExitStack() as registry_runs, contextlib.ExitStack() as cache_runs:
        upstream = registry_runs.enter_context(start_crane_registry(crane, tmp_path / "upstream"))
        name = push(upstream, "team/app", "v1", INDEX)
        cache = cache_runs.enter_context(start_distribution(tmp_path / "cache", proxy=upstream.url))
        (tmp_path / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{upstream.host}"\n[[registry.mirror]]\nlocation = "{cache.host}"\n'
        )
        ImageService(tmp_path / "first", config).pull_image(name)
        assert "/v2/team/app/" in cache.log.read_text()
        _wait_until_kept(tmp_path / "cache", [INDEX.digest, IMAGE.digest, *(blob.digest for blob in IMAGE.blobs)])
        registry_runs.close()
        host = ImageService(tmp_path / "second", config)
        assert host.pull_image(name).digest == IMAGE.digest
        assert stores.problems(host.root) == []
        cache_runs.close()
        with pytest.raises(UnavailableError):
            ImageService(tmp_path / "third", config).pull_image(name)


def _wait_until_kept(directory: Path, digests: Sequence[str]) -> None:
    """Wait until the cache has written what it passed through: it does so after it has answered."""
    deadline = time.monotonic() + 20
    blobs = directory / "storage/docker/registry/v2/blobs/sha256"
    while not all((blobs / one[7:9] / one[7:] / "data").exists() for one in digests):
        assert time.monotonic() < deadline
        time.sleep(0.05)
