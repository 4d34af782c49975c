"""What we pull, other tools read as it stands: skopeo and umoci, by the name that users know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from micropod_img.tools import find_tool
from tests.support.images import image, index
from tests.support.layers import layer
from tests.support.processes import require_program, run
from tests.support.push import push

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.service import ImageService
    from tests.support.registries import Registry

HERE = image([layer({"etc/hello": b"hello\n"})])
BOTH = index([image([layer({"etc/arm": b"arm\n"})], platform="linux/arm64"), HERE])


@pytest.fixture(params=[False, True], ids=["one platform", "all platforms"])
def ref(request: pytest.FixtureRequest, service: ImageService, distribution_registry: Registry, repository: str) -> str:
    """An image that was pulled for this platform, or for all."""
    ref = push(distribution_registry, repository, "1", BOTH)
    service.pull_image(ref, all_platforms=request.param)
    if not request.param:
        service.pull_image(ref, platform="linux/arm64")
    return ref


def test_skopeo_inspects_and_copies_what_we_pulled(ref: str, store_root: Path, tmp_path: Path) -> None:
    skopeo = require_program("skopeo", package="skopeo")
    source = f"oci:{store_root}/images:{ref}"

    inspected = run(skopeo, "--override-arch=amd64", "inspect", source)
    copied = run(skopeo, "--override-arch=amd64", "copy", source, f"dir:{tmp_path}/copy")

    assert inspected.returncode == 0, inspected.stderr
    assert json.loads(inspected.stdout)["Layers"] == [one.digest for one in HERE.layers]
    assert copied.returncode == 0, copied.stderr


def test_umoci_lists_what_we_pulled_under_one_name(ref: str, store_root: Path) -> None:
    umoci = str(find_tool("umoci").path)

    listed = run(umoci, "ls", "--layout", str(store_root / "images"))

    assert listed.stdout.split() == [ref]
