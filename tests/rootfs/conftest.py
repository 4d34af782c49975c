"""umoci, and a place for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img import tools
from micropod_img.errors import ToolError
from micropod_img.rootfs import umoci
from tests.rootfs.runnable_images import static_busybox
from tests.rootfs.unpacking import new_root
from tests.support.processes import missing

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.rootfs.layer_blobs import LayerBlob
    from micropod_img.rootfs.umoci import UnpackRoot


@pytest.fixture(scope="session")
def program() -> Path:
    """The pinned umoci."""
    try:
        return tools.find_tool("umoci").path
    except ToolError as error:
        missing(f"{error.message}: pip install -e . builds it")


@pytest.fixture
def root(tmp_path: Path, program: Path) -> UnpackRoot:
    return new_root(tmp_path / "work", program)


@pytest.fixture(scope="session")
def busybox() -> bytes:
    """A program that runs without libraries."""
    return static_busybox()


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of layers that umoci was given, in order."""
    digests: list[str] = []
    real = umoci.UnpackRoot.unpack_layer

    def counting(self: umoci.UnpackRoot, blob: LayerBlob, **arguments: object) -> None:
        digests.append(blob.digest)
        real(self, blob, **arguments)  # type: ignore[arg-type]  # its only one is handed on as it is

    monkeypatch.setattr(umoci.UnpackRoot, "unpack_layer", counting)
    return digests
