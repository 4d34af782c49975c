"""`verify --repair` of an ordinary user: snapshots hold files that are read inside of the store's namespace only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.rootfs.local_images import gzip_layer
from tests.rootfs.unpacking import as_root
from tests.store import damage
from tests.support.images import image
from tests.support.layers import Entry
from tests.support.ordinary_user import OrdinaryUser, ordinary_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.scripted import ScriptedRegistry

pytestmark = as_root

PRIVATE = [
    Entry("motd", content=b"base"),
    Entry("secret/", kind=b"5", mode=0o700, uid=1234),
    Entry("secret/key", content=b"x", uid=1234),
]
IMAGE = image([gzip_layer(PRIVATE), gzip_layer([Entry("top", content=b"top")])])


@pytest.fixture
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as user:
        yield user


@pytest.mark.slow
def test_an_ordinary_users_store_is_verified_and_repaired(user: OrdinaryUser, scripted: ScriptedRegistry) -> None:
    ref = scripted.serve("app", "1", IMAGE)
    root = user.home / "store"

    def micropod(*arguments: str) -> int:
        done = user.run(sys.executable, "-m", "micropod_img", f"--root={root}", *arguments)
        assert "micropod-img: warning" not in done.stderr
        return done.returncode

    assert micropod("pod", "create", "--id=it", ref) == 0
    assert micropod("verify") == 0
    assert micropod("pod", "umount", "it") == 0
    (changed,) = root.glob("snapshots/*/fs/secret/key")
    changed.write_bytes(b"y")
    damage.flipped(IMAGE.layers[1])(root)
    assert micropod("verify") == 7
    assert micropod("verify", "--repair") == 0
    (again,) = root.glob("snapshots/*/fs/secret/key")
    assert again.read_bytes() == b"x"
    assert micropod("pod", "mount", "it") == 0
