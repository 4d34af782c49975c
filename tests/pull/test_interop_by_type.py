"""Which tools read which kinds of images in the store by their name: the table of docs/interop.md, held to be true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import host_platform
from micropod_img.tools import find_tool
from tests.support.images import image, index
from tests.support.layers import layer
from tests.support.podman import podman
from tests.support.processes import require_program, run
from tests.support.push import push

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.service import ImageService
    from tests.support.images import Manifest
    from tests.support.registries import Registry

OTHER = "linux/s390x"


def two_platforms(*, docker: bool) -> Manifest:
    made = layer({"etc/motd": b"motd"}, docker=docker)
    images = [image([made], docker=docker, platform=platform) for platform in (OTHER, str(host_platform()))]
    return index(images, docker=docker)


@dataclass(frozen=True)
class Kind:
    """A kind of image in the store, and who reads it by its name."""

    docker: bool
    platforms: tuple[str | None, ...]
    skopeo: bool
    umoci: bool


HERE = str(host_platform())
KINDS = {
    "OCI": Kind(docker=False, platforms=(HERE,), skopeo=True, umoci=True),
    "OCI, platforms one by one": Kind(docker=False, platforms=(OTHER, HERE), skopeo=True, umoci=True),
    "OCI, all platforms": Kind(docker=False, platforms=(None,), skopeo=True, umoci=False),
    "Docker": Kind(docker=True, platforms=(HERE,), skopeo=False, umoci=False),
    "Docker, all platforms": Kind(docker=True, platforms=(None,), skopeo=False, umoci=False),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_of_image_is_read_by_the_tools_that_the_table_names(
    kind: Kind, service: ImageService, distribution_registry: Registry, repository: str, tmp_path: Path
) -> None:
    ref = push(distribution_registry, repository, "1", two_platforms(docker=kind.docker))
    for platform in kind.platforms:
        service.pull_image(ref, platform=platform, all_platforms=platform is None)
    layout = service.root / "images"
    umoci, crane = find_tool("umoci").path, find_tool("crane").path
    skopeo = require_program("skopeo", package="skopeo")
    with podman(tmp_path / "podman", "vfs") as engine:
        (no_credentials := engine.state / "auth.json").write_text("{}")
        by_podman = run(*engine.argv(), "pull", f"--authfile={no_credentials}", f"oci:{layout}:{ref}")
    reads = {
        "umoci ls": run(umoci, "ls", "--layout", layout).stdout.split() == [ref],
        "umoci stat": run(umoci, "stat", "--image", f"{layout}:{ref}").returncode == 0,
        "skopeo inspect": run(skopeo, "inspect", f"oci:{layout}:{ref}").returncode == 0,
        "podman pull": by_podman.returncode == 0,
        "crane push": run(crane, "push", "--index", layout, f"{ref}-pushed").returncode == 0,
    }
    assert reads == {
        "umoci ls": True,
        "umoci stat": kind.umoci,
        "skopeo inspect": kind.skopeo,
        "podman pull": kind.skopeo,
        "crane push": True,
    }
