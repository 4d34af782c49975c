from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import host_platform
from tests.cli.command_line import CommandLine
from tests.support.images import image, index
from tests.support.layers import layer
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.images import Manifest
    from tests.support.registries import Registry


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("NO_COLOR", "MICROPOD_CONFIG", "MICROPOD_ROOT", "MICROPOD_TOOLS_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def micropod(store_root: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The program on an empty store."""
    return CommandLine(store_root, capsys)


@pytest.fixture
def other_platform() -> str:
    """A platform that is not this host's."""
    return "linux/amd64" if host_platform().architecture == "arm64" else "linux/arm64"


@pytest.fixture
def image_index(other_platform: str) -> Manifest:
    """An index of an image of two layers for this host, and one for another platform that shares a layer."""
    base = layer({"etc/os-release": b"ID=test\n"})
    own = layer({"bin/app": b"#!/bin/sh\necho app\n" * 40})
    return index([image([base, own], platform=str(host_platform())), image([base], platform=other_platform)])


@pytest.fixture
def ref(crane_registry: Registry, repository: str, image_index: Manifest, crane: Path) -> str:
    """The name of that index in a registry."""
    assert crane
    return push(crane_registry, repository, "v1", image_index)


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets standard input be a text."""

    def pipe(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return pipe
