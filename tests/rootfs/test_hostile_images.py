"""Hostile images through the whole program: refused as such, with nothing written outside and nothing left behind."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from micropod_img.rootfs.drivers import choice
from micropod_img.rootfs.drivers.copies import CopyDriver
from micropod_img.rootfs.mountinfo import mount_points
from tests.rootfs.hostile_layers import HARMLESS, HOSTILE, OUTSIDE, Hostile
from tests.rootfs.local_images import LocalService, gzip_layer
from tests.rootfs.tar_layers import tree
from tests.rootfs.unpacking import as_root
from tests.support.images import image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.rootfs.tar_layers import Node
    from tests.support.layers import Entry
    from tests.support.scripted import ScriptedRegistry

pytestmark = as_root


class Host:
    """A host with a directory that images want to get at, and stores whose pods are overlays, and copies."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outside = directory / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_bytes(b"secret")
        self.work = directory / "work"
        self.work.mkdir()
        self._monkeypatch = monkeypatch
        self._services = {name: self._service(directory / name) for name in ("overlay", "copy")}

    @staticmethod
    def _service(root: Path) -> LocalService:
        root.mkdir(mode=0o700)
        return LocalService(root)

    def routes(self, layers: Sequence[Sequence[Entry | bytes]]) -> Iterator[tuple[str, Callable[[], Path]]]:
        """Put an image into the stores; yield each way to make files of it."""
        meant = [[self._meant(part) for part in parts] for parts in layers]
        overlay, copy = self._services["overlay"], self._services["copy"]
        ref = overlay.put_layers(*meant)
        mount_point = self.work / "mnt"
        mount_point.mkdir()
        yield "overlay pod", lambda: overlay.create_pod(ref, policy="never").rootfs
        yield "unpack", lambda: overlay.unpack(ref, self.work / "dest", policy="never")
        yield "mount", lambda: overlay.mount_image(ref, mount_point, policy="never")
        if mount_point.is_mount():
            overlay.unmount_image(mount_point)
        self._monkeypatch.setattr(choice, "drivers", lambda _: (CopyDriver(),))
        copied = copy.put_layers(*meant)
        yield "copy pod", lambda: copy.create_pod(copied, policy="never").rootfs

    def _meant(self, part: Entry | bytes) -> Entry | bytes:
        if isinstance(part, bytes):
            return part
        return dataclasses.replace(part, target=part.target.replace(OUTSIDE, str(self.outside)))

    def left(self) -> list[str]:
        """Return what refused images left, beside snapshots of layers that were fine."""
        found = [str(path) for path in self.work.iterdir() if path.name != "mnt"]
        for service in self._services.values():
            for place in ("tmp", "pods"):
                if (service.root / place).exists():
                    found += map(str, (service.root / place).iterdir())
            found += [str(path) for path in mount_points() if path.is_relative_to(service.root)]
        return found

    def end(self) -> None:
        for service in self._services.values():
            service.end()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path, monkeypatch)
    yield made
    made.end()


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_image_is_refused_by_every_route_and_leaves_nothing(hostile: Hostile, host: Host) -> None:
    before = tree(host.outside)
    for route, make in host.routes(hostile.layers):
        with pytest.raises(MicropodError) as caught:
            make()
        assert (caught.value.exit_status, hostile.said in caught.value.message) == (hostile.status, True), (
            f"{route}: {caught.value.message}"
        )
        assert f"{caught.value.message}{caught.value.hint or ''}".isprintable()
        assert host.left() == [], route
    assert tree(host.outside) == before


@pytest.mark.parametrize("name", ["a name that leads out", "a hard link to itself", "a size beyond any disk"])
@pytest.mark.parametrize("route", ["unpack", "pod"])
def test_a_hostile_image_is_refused_as_well_while_it_is_pulled(
    route: str, name: str, scripted: ScriptedRegistry, store_root: Path, tmp_path: Path
) -> None:
    hostile = HOSTILE[name]
    ref = scripted.serve("some/image", "v1", image([gzip_layer(parts) for parts in hostile.layers]))
    service = LocalService(store_root)
    with pytest.raises(MicropodError) as caught:
        service.create_pod(ref) if route == "pod" else service.unpack(ref, tmp_path / "dest")
    assert (caught.value.exit_status, hostile.said in caught.value.message) == (hostile.status, True)
    assert {path.name for path in tmp_path.iterdir()} == {store_root.name}
    assert list((store_root / "tmp").iterdir()) == []
    assert service.list_pods() == []


@pytest.mark.parametrize("layers_and_files", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_only_looks_hostile_becomes_what_it_is_in_a_container(
    layers_and_files: tuple[Sequence[Sequence[Entry | bytes]], dict[bytes, bytes | None]], host: Host
) -> None:
    layers, files = layers_and_files
    before = tree(host.outside)
    for route, make in host.routes(layers):
        found = tree(make())
        assert {path: _content(node) for path, node in found.items()} == files, route
    assert tree(host.outside) == before


def _content(node: Node) -> bytes | None:
    return node.content if node.kind == "file" else None
