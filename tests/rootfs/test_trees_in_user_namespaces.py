"""The same trees for root of a user namespace, which is what an ordinary user is where their pods are made."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from micropod_img.rootfs.drivers import choice
from tests.rootfs.faithful import FAITHFUL, as_described, without_link_counts
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import tree
from tests.rootfs.test_drivers import OTHERWISE, driver_of
from tests.rootfs.unpacking import as_root
from tests.rootfs.user_namespaces import run_python
from tests.support.ordinary_user import UID, ordinary_user

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rootfs.faithful import Tree
    from tests.rootfs.tar_layers import Node

CODE = """
import sys
from pathlib import Path
from tests.rootfs.test_trees_in_user_namespaces import tell_differences
tell_differences(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


@as_root
@pytest.mark.slow
@pytest.mark.parametrize("driver", ["overlay-userxattr", "fuse-overlayfs", "copy"])
def test_pods_have_the_trees_that_their_layers_describe(driver: str, store_root: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    assert run_python(CODE, store_root, told, driver) == 0
    assert json.loads(told.read_text()) == {"owners": "owner-not-mapped"}  # the namespace has 65,536 of them


def tell_differences(root: Path, told: Path, driver: str) -> None:
    """Make a pod of each image of the table, and write down which are not as described, and how; or why they fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "drivers", lambda layout: (driver_of(layout, driver),))
        service = LocalService(root)
        try:
            differences = {case: _difference(service, case, driver) for case in FAITHFUL}
        finally:
            service.end()
    told.write_text(json.dumps({case: difference for case, difference in differences.items() if difference}))


def _difference(service: LocalService, case: str, driver: str) -> object:
    archives, described = FAITHFUL[case]
    expected = without_link_counts(_without_devices(described))
    try:
        pod = service.create_pod(service.put_layers(*archives), policy="never")
    except MicropodError as error:
        return error.code
    found = without_link_counts(as_described(tree(pod.rootfs), expected))
    paths = {path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)}
    return [f"{path!r}: {found.get(path)}" for path in sorted(paths - {OTHERWISE.get((driver, case), b"")})]


def _without_devices(tree: Tree) -> Tree:
    """Only root may make devices: an empty file, with all that is said of the device, is in the place of each."""
    return {
        path: dataclasses.replace(node, kind="file", device=0) if node.device else node for path, node in tree.items()
    }


UNPACK = """
import sys
from pathlib import Path
from tests.rootfs.faithful import FAITHFUL
from tests.rootfs.local_images import LocalService
service = LocalService(Path(sys.argv[1]))
for case, (archives, _) in FAITHFUL.items():
    service.unpack(service.put_layers(*archives), Path(sys.argv[2], case), policy="never")
"""


@as_root
@pytest.mark.slow
def test_what_an_ordinary_user_unpacks_is_theirs_and_else_as_described() -> None:
    with ordinary_user() as user:
        unpacked = user.home / "unpacked"
        unpacked.mkdir()
        os.chown(unpacked, UID, UID)
        done = user.python(UNPACK, user.home / "store", unpacked)
        assert done.returncode == 0, done.stderr
        for case, (_, described) in FAITHFUL.items():
            expected = _of_an_ordinary_user(described)
            assert as_described(tree(unpacked / case), expected) == expected, case


def _of_an_ordinary_user(tree: Tree) -> Tree:
    """Return what it is where all files are the user's own; whose they were to be stands in an attribute."""
    return {
        path: dataclasses.replace(node, owner=(UID, UID), xattrs=(*_capabilities(node), *_intended_owner(node)))
        for path, node in _without_devices(tree).items()
    }


def _capabilities(node: Node) -> Iterator[tuple[str, bytes]]:
    for name, value in node.xattrs:
        # Those that count only where this user is root (capabilities(7), VFS_CAP_REVISION_3).
        made = b"\1\0\0\3" + value[4:] + UID.to_bytes(4, "little") if name == "security.capability" else value
        yield name, made


def _intended_owner(node: Node) -> Iterator[tuple[str, bytes]]:
    """Yield the attribute of rootlesscontainers (its Resource message), in which an id of root is none."""
    if node.owner != (0, 0):
        yield (
            "user.rootlesscontainers",
            b"".join(bytes([8 * field]) + _varint(number or 0xFFFFFFFF) for field, number in enumerate(node.owner, 1)),
        )


def _varint(number: int) -> bytes:
    low = number & 0x7F
    return bytes([low]) if number < 1 << 7 else bytes([low | 0x80]) + _varint(number >> 7)
