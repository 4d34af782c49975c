from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.repair.filled import Here, service_on
from tests.support.scripted import ScriptedRegistry, scripted_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from micropod_img.service import ImageService


@pytest.fixture(scope="module")
def registry() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as registry:
        yield registry


@pytest.fixture(scope="module")
def filled(registry: ScriptedRegistry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that each test gets a copy of: filling it takes longer than most of them."""
    directory = tmp_path_factory.mktemp("filled")
    Here(service_on(directory / "store", directory), registry).fill()
    return directory / "store"


@pytest.fixture
def service(store_root: Path, tmp_path: Path) -> ImageService:
    return service_on(store_root, tmp_path)


@pytest.fixture
def here(service: ImageService, filled: Path, registry: ScriptedRegistry) -> Here:
    shutil.copytree(filled, service.root, dirs_exist_ok=True)
    here = Here(service, registry)
    registry.forget_requests()
    return here
