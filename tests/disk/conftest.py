"""What the tests of disks share: a small filesystem, and a service with an image on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rootfs.local_images import LocalService
from tests.support import stores
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.small_filesystems import KINDS, MIB, SmallFilesystem, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = image([random_layer(MIB, seed=1), layer({"etc/image": b"here"})])
OTHER = image([random_layer(2 * MIB, seed=2), layer({"etc/image": b"other"})])


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallFilesystem]:
    """A small filesystem of each kind in turn."""
    with mounted(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "registries.conf").touch()
    config = tmp_path / "config.toml"
    config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    return config


@pytest.fixture
def service(disk: SmallFilesystem, config: Path) -> Iterator[LocalService]:
    """A service with two images on that filesystem, which must keep all its promises when the test has ended."""
    service = LocalService(disk.path / "store", config)
    service.put(HERE, "local/here:1")
    service.put(OTHER, "local/other:1")
    yield service
    service.end()
    assert service.verify().problems == ()
    assert stores.problems(service.root) == []
