"""What the tests of pulling share: a service on an empty store, and an eye on what must always hold there."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest

from micropod_img.pull import retry
from micropod_img.service import ImageService
from tests.support import stores
from tests.support.meanwhile import Meanwhile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from micropod_img.progress import Event

Events: TypeAlias = "list[Event]"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration that leaves out what this machine says of registries."""
    (tmp_path / "registries.conf").touch()
    config = tmp_path / "config.toml"
    config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    return config


@pytest.fixture
def service(store_root: Path, config_file: Path) -> Iterator[ImageService]:
    """A service on an empty store, which must keep all its promises when the test has ended."""
    yield ImageService(store_root, config_file)
    assert stores.problems(store_root) == []


@pytest.fixture
def another(store_root: Path, config_file: Path) -> ImageService:
    """What another process does to the same store."""
    return ImageService(store_root, config_file)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Lets something happen in the middle of what the package does."""
    return Meanwhile(monkeypatch)


@pytest.fixture
def events() -> Events:
    """Where progress goes."""
    return []


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.01)


@pytest.fixture
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let crane try again, which takes it four seconds, and nobody else."""
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
