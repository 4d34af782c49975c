"""Every command notices the damage that it touches, builds nothing on it, and says what helps."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import host_platform
from micropod_img.store.store import Store
from tests.rootfs.local_images import LocalService, put_image
from tests.rootfs.unpacking import as_root
from tests.store import damage
from tests.support import stores
from tests.support.images import image
from tests.support.layers import layer, random_layer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.command_line import CommandLine
    from tests.store.damage import Damage
    from tests.support.registries import Registry

pytestmark = as_root

TOP = random_layer(3000)
IMAGE = image([layer({"etc/motd": b"base"}), TOP], platform=str(host_platform()))
REPAIR, PULL = "verify --repair", "pull the image again"

# What each damage is called: by commands that read the image, by those that need nothing but the index, and by gc.
DAMAGES: dict[str, tuple[Damage, str, int, int]] = {
    "a missing layer": (damage.removed(TOP), PULL, 0, 0),
    "a layer cut short": (damage.cut_short(TOP), PULL, 0, 0),
    "a directory for a layer": (damage.made_a_directory(TOP), PULL, 0, 0),
    "a link for a layer": (damage.made_a_link(TOP), PULL, 0, 0),
    "a changed configuration": (damage.flipped(IMAGE.blobs[0]), PULL, 0, 0),
    "a link for a configuration": (damage.made_a_link(IMAGE.blobs[0]), REPAIR, 0, 0),
    "a missing manifest": (damage.removed(IMAGE), PULL, 0, 7),
    "a changed manifest": (damage.flipped(IMAGE), PULL, 0, 7),
    "an entry of another size": (damage.entry_changed(0, size=7), REPAIR, 0, 7),
    "a torn index": (damage.index_cut_to(0.5), REPAIR, 7, 7),
    "an empty index": (damage.index_is(b""), REPAIR, 7, 7),
    "a deep index": (damage.index_is(b'{"manifests": ' + b"[" * 100_000), REPAIR, 7, 7),
    "no index": (lambda root: damage.index(root).unlink(), REPAIR, 7, 7),
    "an entry that is none": (damage.entry_added("x"), REPAIR, 7, 7),
    "a torn version": (lambda root: os.truncate(root / "version", 0), REPAIR, 7, 7),
}


@pytest.fixture
def root(store_root: Path) -> Iterator[Path]:
    """A store with one image, none of whose snapshots is made."""
    put_image(store_root, IMAGE, "app:1")
    yield store_root
    (store_root / "version").write_text("1\n")
    for pod in LocalService(store_root).list_pods():
        LocalService(store_root).remove_pod(pod.id)


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize(
    "command",
    [
        ("images",),
        ("inspect", "app:1"),
        ("tag", "app:1", "other:1"),
        ("df",),
        ("push", "app:1", "127.0.0.1:1/app:1"),
        ("pull", "--policy=never", "app:1"),
        ("unpack", "--policy=never", "app:1", "DIRECTORY"),
        ("pod", "create", "--policy=never", "app:1"),
        ("mount", "--policy=never", "app:1", "DIRECTORY"),
    ],
    ids=" ".join,
)
def test_a_command_that_reads_an_image_refuses_a_damaged_one_and_says_what_helps(
    command: tuple[str, ...], name: str, root: Path, micropod: CommandLine, tmp_path: Path
) -> None:
    wrong, hint, _, _ = DAMAGES[name]
    wrong(root)
    before = damage.index(root).read_bytes() if damage.index(root).exists() else None
    (tmp_path / "directory").mkdir()
    said = micropod(*(str(tmp_path / "directory") if word == "DIRECTORY" else word for word in command))
    assert said.status == 7, said
    assert hint in said.err or "only what is bad is fetched" in said.err
    assert list((tmp_path / "directory").iterdir()) == []
    assert not (root / "pods").exists() or list((root / "pods").iterdir()) == []
    assert (damage.index(root).read_bytes() if damage.index(root).exists() else None) == before


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_can_be_removed_and_garbage_is_never_guessed(
    name: str, root: Path, micropod: CommandLine
) -> None:
    wrong, _, index, gc = DAMAGES[name]
    spare = random_layer(10)
    (root / "images/blobs/sha256" / spare.digest[7:]).write_bytes(spare.content)
    wrong(root)
    blobs = set((root / "images/blobs/sha256").iterdir())
    assert micropod("gc").status == gc
    assert (set((root / "images/blobs/sha256").iterdir()) == blobs) == bool(gc)
    assert micropod("rmi", "app:1").status == index
    if index == 0:
        assert stores.entries(root) == []


def test_other_bytes_of_the_right_size_are_noticed_when_a_layer_is_unpacked(
    root: Path, micropod: CommandLine, tmp_path: Path
) -> None:
    damage.flipped(TOP)(root)
    for command in (["unpack", "app:1", str(tmp_path / "files")], ["pod", "create", "app:1"]):
        said = micropod(*command, "--policy=never")
        assert said.status == 7
        assert TOP.digest in said.err
        assert "verify" in said.err
    assert not (tmp_path / "files").exists()
    assert micropod("pod", "ls", "-q").out == ""


def test_other_bytes_of_the_right_size_are_no_registrys_fault(
    root: Path, micropod: CommandLine, registry: Registry, repository: str
) -> None:
    damage.flipped(TOP)(root)
    said = micropod("push", "app:1", registry.reference(repository))
    assert (said.status, "micropod-img verify" in said.err) == (7, True)


def test_an_entry_of_an_unknown_type_is_passed_over_by_all(root: Path, micropod: CommandLine) -> None:
    damage.entry_added({**TOP.descriptor, "mediaType": "application/xml"})(root)
    for command in ("images", "df", "gc", "verify"):
        assert micropod(command).status == 0
    assert micropod("rmi", "app:1").status == 0
    assert [path.name for path in (root / "images/blobs/sha256").iterdir()] == [TOP.digest[7:]]


def test_a_pod_whose_snapshot_is_gone_says_which_and_what_helps(root: Path, micropod: CommandLine) -> None:
    micropod("pod", "create", "--policy=never", "--id=it", "app:1")
    micropod("pod", "umount", "it")
    chain = Store(root).layout.snapshots
    gone = next(path for path in chain.iterdir() if len(path.name) == 64)
    shutil.rmtree(gone)
    said = micropod("pod", "mount", "it")
    assert said.status == 7
    assert f"sha256:{gone.name}" in said.err
    assert REPAIR in said.err
    assert micropod("verify", "--repair").status == 0
    assert micropod("pod", "mount", "it").status == 0


def test_a_torn_pod_is_named_and_can_be_removed(root: Path, micropod: CommandLine) -> None:
    micropod("pod", "create", "--policy=never", "--id=it", "app:1")
    os.truncate(root / "pods/it/pod.json", 9)
    for command in (["pod", "ls"], ["pod", "mount", "it"], ["gc"]):
        said = micropod(*command)
        assert said.status == 7
        assert "pods/it/pod.json" in said.err
        assert "pod rm" in said.err
    assert micropod("pod", "rm", "it").status == 0
    assert micropod("verify").status == 0


def test_a_torn_record_of_the_driver_is_said_before_a_pod_is_made(root: Path, micropod: CommandLine) -> None:
    micropod("pod", "create", "--policy=never", "--id=it", "app:1")
    (root / "snapshots/driver.json").write_bytes(b"{")
    said = micropod("pod", "create", "--policy=never", "app:1")
    assert (said.status, REPAIR in said.err) == (7, True)
    assert micropod("verify", "--repair").status == 0
    assert micropod("pod", "create", "--policy=never", "app:1").status == 0
