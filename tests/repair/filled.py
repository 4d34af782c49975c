"""A store that was filled from a registry, to be damaged and repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.service import ImageService
from tests.support import stores
from tests.support.images import attestation, image, index
from tests.support.layers import layer, random_layer

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.problems import Verification
    from tests.support.scripted import ScriptedRegistry

BASE, TOP = layer({"etc/motd": b"base"}), random_layer(1_500_000)
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64")
BOTH = index([AMD64, ARM64, attestation(AMD64)])
OTHER = image([BASE, layer({"etc/hosts": b"other"})])


class Here:
    """A store that was filled from a registry, which counts what it is asked for."""

    def __init__(self, service: ImageService, registry: ScriptedRegistry) -> None:
        self.service = service
        self.registry = registry
        self.root = service.root
        self.one = registry.serve("one", "1", BOTH)
        self.whole = registry.serve("whole", "1", BOTH)
        self.other = registry.serve("other", "1", OTHER)
        self.names = {self.one, self.whole, self.other}
        self.written: set[str] = set()

    def fill(self) -> None:
        self.service.pull_image(self.one)
        self.service.pull_image(self.whole, all_platforms=True)
        self.service.pull_image(self.other)

    def repair(self) -> Verification:
        before = stores.inodes(self.root)
        found = self.service.repair()
        self.written = {digest for digest, inode in stores.inodes(self.root).items() if before.get(digest) != inode}
        return found

    def listed(self) -> set[tuple[str, str]]:
        return set(stores.listed(self.root))


def service_on(root: Path, directory: Path) -> ImageService:
    (directory / "registries.conf").touch()
    (directory / "config.toml").write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    return ImageService(root, directory / "config.toml")


def done(found: Verification) -> list[str]:
    return [one.code for one in found.repaired]
