"""What a ``pull`` of an image that is here loads, which decides how long it takes; bench/startup.py measures that."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.command_line import environment
from tests.rootfs.unpacking import as_root

if TYPE_CHECKING:
    from tests.cli.command_line import CommandLine

_SCRIPT = """
import sys
from micropod_img.cli.main import main
assert main(sys.argv[1:]) == 0
print("\\n".join(sys.modules))
"""

NOT_FOR_WHAT_IS_HERE = [
    "pydantic",
    "rich",
    "asyncio",
    "tempfile",
    "tomllib",
    "micropod_img.oci",
    "micropod_img.tools",
    "micropod_img.run",
    "micropod_img.pull.pull",
    "micropod_img.render.progress_bars",
    "micropod_img.cli.commands.images",
]

NOT_FOR_PODS = [
    *(name for name in NOT_FOR_WHAT_IS_HERE if name != "micropod_img.run"),  # drivers that start programs are known
    "concurrent.futures",
    "logging",
    "micropod_img.reports",
    "micropod_img.rootfs.bundle",
    "micropod_img.rootfs.gated",
    "micropod_img.rootfs.umoci",
    "micropod_img.rootfs.userns",
]


def modules(*arguments: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments], env=environment(), capture_output=True, text=True, check=True
    )
    return set(ended.stdout.split())


@pytest.mark.parametrize("options", [[], ["-q"], ["--progress=none", "--policy=missing", "--jobs=2"]])
def test_a_pull_of_what_is_here_loads_little(micropod: CommandLine, ref: str, options: list[str]) -> None:
    assert micropod("pull", "-q", ref).status == 0
    loaded = modules(f"--root={micropod.root}", "pull", ref, *options)
    assert "micropod_img.cli.commands.pull" in loaded
    assert loaded.isdisjoint(NOT_FOR_WHAT_IS_HERE)


def test_listing_tags_loads_nothing_that_reads_images(micropod: CommandLine, ref: str) -> None:
    repository = ref.rpartition(":")[0]
    loaded = modules(f"--root={micropod.root}", "tags", repository)
    assert "micropod_img.pull.tags" in loaded
    assert loaded.isdisjoint({"pydantic", "rich", "asyncio", "micropod_img.oci", "micropod_img.pull.image_pull"})


@as_root
def test_a_pod_of_what_is_here_loads_little(micropod: CommandLine, ref: str) -> None:
    try:
        assert micropod("pod", "create", "-q", "--id=first", ref).status == 0
        loaded = modules(f"--root={micropod.root}", "pod", "create", "--id=second", ref)
        assert "micropod_img.rootfs.pods" in loaded
        assert loaded.isdisjoint(NOT_FOR_PODS)
    finally:
        micropod("pod", "rm", "first", "second")
