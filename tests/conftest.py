"""What many tests share: real registries, a scripted one, the pinned crane, places on disk."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import ToolError
from micropod_img.tools import find_tool
from tests.support.processes import missing
from tests.support.real_content import real_content_image
from tests.support.registries import Registry, start_crane_registry, start_distribution
from tests.support.scripted import ScriptedRegistry, scripted_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.images import Manifest

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _no_credentials_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker-config")))
        for name in ("REGISTRY_AUTH_FILE", "MICROPOD_ROOT", "MICROPOD_CONFIG"):
            environment.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def crane() -> Path:
    """The pinned crane."""
    try:
        return find_tool("crane").path
    except ToolError as error:
        missing(f"{error.message}; {error.hint}")


@pytest.fixture(scope="session")
def crane_registry(crane: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Crane's own registry, in memory."""
    with start_crane_registry(crane, tmp_path_factory.mktemp("crane-registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def distribution_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry."""
    with start_distribution(tmp_path_factory.mktemp("distribution")) as registry:
        yield registry


@pytest.fixture(params=["crane", "distribution"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """Each of the real registries in turn."""
    found = request.getfixturevalue(f"{request.param}_registry")
    assert isinstance(found, Registry)
    return found


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository that no other test uses: the registries live as long as the session."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"{name[:80].strip('-')}/{next(_numbers)}"


@pytest.fixture
def scripted() -> Iterator[ScriptedRegistry]:
    """A registry that serves, and does, what it is told."""
    with scripted_registry() as registry:
        yield registry


@pytest.fixture
def store_root(tmp_path: Path) -> Path:
    """An empty directory for a store."""
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    return root


@pytest.fixture(scope="session")
def real_image() -> Manifest:
    """An image with real content in three layers, about 60 MiB of files."""
    return real_content_image()
