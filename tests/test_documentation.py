"""The examples of the documentation, run as they stand against a real registry; and that nothing public is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import micropod_img
from micropod_img.cli.program import COMMANDS
from micropod_img.registries import RegistryService
from tests.cli.command_line import environment
from tests.rootfs.runnable_images import runnable, static_busybox
from tests.rootfs.test_really_runs import HYBRID_CGROUPS
from tests.rootfs.unpacking import as_root
from tests.support.images import image, index
from tests.support.processes import require_program
from tests.support.push import push

if TYPE_CHECKING:
    from tests.support.registries import Registry

CHECKOUT = Path(__file__).parent.parent
API = CHECKOUT / "docs/api.md"
PASSED_THROUGH = {"crane", "unshare"}  # which print what the program prints that they run

# crun does not work with both versions of cgroups mounted; what is unmounted here, only it does not see.
_RUN = f'! test -e {HYBRID_CGROUPS} || umount {HYBRID_CGROUPS}; exec "$0" "$@"'


@pytest.fixture
def docker_hub(distribution_registry: Registry, tmp_path: Path) -> Path:
    """Return a configuration for which Docker Hub is a registry on loopback, where there is an alpine of a kind."""
    layers = runnable(static_busybox()).layers
    alpine = index([image(layers, platform=platform) for platform in ("linux/amd64", "linux/arm64")])
    push(distribution_registry, "library/alpine", "3.20", alpine)
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nprefix = "docker.io"\nlocation = "{distribution_registry.host}"\ninsecure = true\n'
    )
    config = tmp_path / "config.toml"
    config.write_text('registries-conf = "registries.conf"\n')
    return config


@as_root
@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "printed"),
    [("docs/api.md", "hello from a pod\nuid=0"), ("README.md", "docker.io/library/alpine:3.20 sha256:")],
)
def test_the_examples_of_a_page_work(page: str, printed: str, docker_hub: Path, store_root: Path) -> None:
    require_program("crun", package="crun")
    blocks = re.findall(r"^```python\n(.*?)^```$", (CHECKOUT / page).read_text(), re.DOTALL | re.MULTILINE)
    done = subprocess.run(
        [
            require_program("unshare", package="util-linux"),
            "--mount",
            "sh",
            "-ec",
            _RUN,
            sys.executable,
            "-c",
            "\n".join(blocks),
        ],
        env=environment({"MICROPOD_ROOT": str(store_root), "MICROPOD_CONFIG": str(docker_hub)}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # the library says nothing of its own
    assert printed in done.stdout


@pytest.mark.parametrize("name", micropod_img.__all__)
def test_the_page_of_the_api_has_every_public_name(name: str) -> None:
    assert re.search(rf"\b{name}\b", API.read_text())


@pytest.mark.parametrize("service", [micropod_img.ImageService, RegistryService], ids=lambda one: one.__name__)
def test_the_page_of_the_api_has_every_use_case(service: type) -> None:
    text = API.read_text()
    public = [name for name in dir(service) if not name.startswith("_")]
    assert [name for name in public if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_listed_and_so_is_its_json(command: str) -> None:
    named = re.compile(rf"^\|.*`{command}\b.*\|", re.MULTILINE)
    assert named.search((CHECKOUT / "README.md").read_text())
    if command not in PASSED_THROUGH:
        assert named.search((CHECKOUT / "docs/json.md").read_text())
