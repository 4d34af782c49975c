"""Images of real files, in megabytes: what arrives is what was pushed, and memory does not grow with it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import stores
from tests.support.images import image
from tests.support.layers import random_layer
from tests.support.push import push

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.service import ImageService
    from tests.support.images import Manifest
    from tests.support.registries import Registry

MIB = 1 << 20


def test_real_files_in_several_layers_arrive_as_they_were_pushed(
    service: ImageService, registry: Registry, repository: str, real_image: Manifest, store_root: Path
) -> None:
    ref = push(registry, repository, "1", real_image)

    pulled = service.pull_image(ref)

    assert pulled.layers == tuple(layer.digest for layer in real_image.layers)
    for layer in real_image.layers:
        assert stores.blob_path(store_root, layer.digest).read_bytes() == layer.content


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(
    crane_registry: Registry, repository: str, store_root: Path, config_file: Path
) -> None:
    ref = push(crane_registry, repository, "1", image([random_layer(200 * MIB)]))
    # Not ru_maxrss of the process itself: it remembers the size of the test runner that it was forked from.
    program = (
        "import pathlib, resource, sys\n"
        "from micropod_img import ImageService\n"
        "ImageService(sys.argv[1], sys.argv[2]).pull_image(sys.argv[3])\n"
        "print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program, str(store_root), str(config_file), ref],
        capture_output=True,
        text=True,
        check=True,
    )

    ours, cranes = (int(line) / 1024 for line in answer.stdout.split())
    assert ours < 80
    assert cranes < 80
