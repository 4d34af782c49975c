"""What a command makes visible is on the disk by then, and what it reports stays: by the order of its system calls."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from micropod_img.service import ImageService
from tests.rootfs.unpacking import as_root
from tests.support import stores
from tests.support.durability import CALLS, torn_by_power_cuts
from tests.support.images import image, index
from tests.support.layers import layer, random_layer
from tests.support.processes import require_program, run
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.registries import Registry

pytestmark = [as_root, pytest.mark.slow]

SMALL = image([layer({"etc/motd": b"welcome\n", "bin/sh": b"#!"}), layer({"etc/other": b"other\n"})])
WHOLE = index([image([random_layer(50_000)]), image([random_layer(40_000, seed=1)], platform="linux/arm64")])
PROGRAM = ("-m", "micropod_img")
COPYING = (
    "-c",
    """
import sys
from micropod_img.cli.main import main
from micropod_img.rootfs.drivers import choice
from micropod_img.rootfs.drivers.copies import CopyDriver

choice.drivers = lambda _: (CopyDriver(),)
sys.exit(main())
""",
)


@dataclass(frozen=True)
class Traced:
    """Runs commands on one store, and reads what they did."""

    directory: Path
    strace: str

    @property
    def root(self) -> Path:
        return self.directory / "store"

    def run(
        self, *arguments: str, makes: Path | None = None, stdin: str = "", program: tuple[str, str] = PROGRAM
    ) -> list[str]:
        """Run a command; return what a power cut in the midst of it, or after it, would have torn or taken back."""
        trace = self.directory / "trace"
        config = self.directory / "config.toml"
        done = run(
            *(self.strace, "-f", "-y", f"--output={trace}", f"--trace={CALLS}", sys.executable, *program),
            *(f"--root={self.root}", f"--config={config}", *arguments),
            stdin=stdin,
            environment={"DOCKER_CONFIG": str(self.directory)},
        )
        if "PTRACE" in done.stderr:
            pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        others = () if makes is None else (PurePosixPath(makes),)
        return torn_by_power_cuts(trace.read_text().splitlines(), PurePosixPath(self.root), *others)


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    (tmp_path / "registries.conf").touch()
    (tmp_path / "config.toml").write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    traced = Traced(tmp_path, require_program("strace", package="strace"))
    yield traced
    service = ImageService(traced.root)
    for pod in service.list_pods():
        service.remove_pod(pod.id)


def test_images(traced: Traced, crane_registry: Registry, repository: str) -> None:
    ref = push(crane_registry, repository, "small", SMALL)
    whole = push(crane_registry, repository, "whole", WHOLE)
    assert traced.run("pull", ref) == []
    assert traced.run("pull", whole, "--all-platforms") == []
    assert traced.run("tag", ref, "local/name:1") == []
    assert traced.run("rmi", ref, whole) == []
    assert traced.run("gc") == []


def test_root_filesystems(traced: Traced, crane_registry: Registry, repository: str) -> None:
    ref = push(crane_registry, repository, "small", SMALL)
    assert traced.run("pod", "create", ref, "--id", "one") == []
    assert traced.run("pod", "create", ref, "--id", "two", "--bundle") == []
    assert traced.run("pod", "rm", "one", "two") == []
    assert traced.run("unpack", ref, str(traced.directory / "files"), makes=traced.directory / "files") == []
    assert traced.run("rmi", ref) == []
    assert traced.run("gc") == []


def test_large_layers_that_are_unpacked_beside_one_another(
    traced: Traced, crane_registry: Registry, repository: str
) -> None:
    ref = push(crane_registry, repository, "large", image([random_layer(5 << 20, seed=seed) for seed in range(3)]))
    assert traced.run("pod", "create", ref, "--id", "one") == []
    assert traced.run("pod", "rm", "one") == []


def test_pods_that_are_copies(traced: Traced, crane_registry: Registry, repository: str) -> None:
    ref = push(crane_registry, repository, "small", SMALL)
    assert traced.run("pod", "create", ref, "--id", "one", program=COPYING) == []
    assert traced.run("pod", "create", ref, "--id", "two", program=COPYING) == []
    assert traced.run("pod", "rm", "one", "two", program=COPYING) == []


def test_a_repair(traced: Traced, crane_registry: Registry, repository: str) -> None:
    ref = push(crane_registry, repository, "small", SMALL)
    assert traced.run("pod", "create", ref, "--id", "one") == []
    assert traced.run("pod", "rm", "one") == []
    damaged = stores.blob_path(traced.root, SMALL.layers[1].digest)
    damaged.write_bytes(bytes(SMALL.layers[1].size))
    assert traced.run("verify", "--repair") == []
    assert stores.problems(traced.root) == []


def test_credentials(traced: Traced, crane_registry: Registry) -> None:
    login = ("login", crane_registry.host, "--insecure", "--username", "somebody", "--password-stdin")
    file = traced.directory / "config.json"
    assert traced.run(*login, makes=file, stdin="secret") == []
    assert traced.run("logout", crane_registry.host, makes=file) == []


CUTS = {
    "the index": r"fsync\(.*/images/index\.json|fsync\(.*/tmp/index-\w+/index\.json",
    "the index's name": r"fsync\(.*/images>",
    "a blob": r"fsync\(.*/layout/blobs/sha256/[0-9a-f]+>",
    "a blob's name": r"fsync\(.*/images/blobs/sha256>",
    "a snapshot": r"syncfs\(",
    "a snapshot's name": r"fsync\(.*/snapshots>",
    "a pod's record": r"fsync\(.*/pod\.json\.new>",
    "a pod's name": r"fsync\(.*/pods>",
}


def test_every_sync_that_a_command_left_out_would_be_missed(
    traced: Traced, crane_registry: Registry, repository: str
) -> None:
    ref = push(crane_registry, repository, "small", SMALL)
    assert traced.run("pod", "create", ref, "--id", "one") == []
    lines = (traced.directory / "trace").read_text().splitlines()
    for what, pattern in CUTS.items():
        without = [line for line in lines if not re.search(pattern, line)]
        assert len(without) < len(lines), what
        assert torn_by_power_cuts(without, PurePosixPath(traced.root)), what
