"""Stores on the filesystems that machines have: each finds a driver that works there, or says what is missing."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.rootfs.unpacking import as_root
from tests.support.mounts import run_with_mounts
from tests.support.ordinary_user import CHECKOUT, UID, ordinary_user
from tests.support.processes import missing, require_program, run

if TYPE_CHECKING:
    from tests.support.ordinary_user import OrdinaryUser

SIZE = 400 << 20
FUSE = Path("/dev/fuse")
PACKAGES = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs"}

PODS = """
import json, os, sys
from pathlib import Path
from micropod_img import diagnose
from micropod_img.errors import MicropodError
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import tree
from tests.support.layers import Entry, directory, whiteout

service = LocalService(Path(sys.argv[1]) / "store")
base = [directory("d"), Entry("d/kept", b"1", uid=7, mode=0o4755), Entry("d/gone"), directory("o"), Entry("o/hidden")]
top = [whiteout("d/gone"), Entry("o/.wh..wh..opq"), Entry("o/new"), Entry("big", bytes(1 << 20))]
ref = service.put_layers(base, top)
try:
    one, other = (service.create_pod(ref, policy="never") for _ in "ab")
    assert set(tree(one.rootfs)) == {b"d", b"d/kept", b"o", b"o/new", b"big"}, tree(one.rootfs)
    status = (one.rootfs / "d/kept").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (7, 0o4755), status
    (one.rootfs / "d/kept").write_bytes(b"changed")
    (one.rootfs / "o/new").unlink()
    assert (other.rootfs / "d/kept").read_bytes() == b"1"
    service.unmount_pod(one.id)
    service.mount_pod(one.id)
    assert set(tree(one.rootfs)) == {b"d", b"d/kept", b"o", b"big"}
    choice = service.driver_choice()
    plain = service.unpack(ref, Path(sys.argv[1]) / "plain", policy="never")
    [found] = [one for one in diagnose(service.root).findings if one.subject == "driver"]
    assert found.facts.get("driver") == choice.driver, found
    told = {"driver": choice.driver, "rejected": dict(choice.rejected), "hint": found.hint, "plain": len(tree(plain))}
    service.end()
    assert sorted(path.name for path in (service.root / "tmp").iterdir()) == []
except MicropodError as error:
    told = {"status": error.exit_status, "code": error.code, "detail": error.detail}
print(json.dumps(told))
"""


SHARED = """
import os, sys
from pathlib import Path
from micropod_img.rootfs.drivers import choice
from micropod_img.rootfs.drivers.copies import CopyDriver
from tests.rootfs.local_images import LocalService
from tests.support.layers import Entry

choice.drivers = lambda layout: (CopyDriver(),)
place = Path(sys.argv[1])
service = LocalService(place / "store")
ref = service.put_layers([Entry("big", os.urandom(16 << 20))], [Entry("small")])
service.remove_pod(service.create_pod(ref, policy="never").id)

def free():
    os.sync()
    status = os.statvfs(place)
    return status.f_bfree * status.f_frsize

before = free()
for _ in range(3):
    assert (service.create_pod(ref, policy="never").rootfs / "big").stat().st_size == 16 << 20
print(before - free())
"""
PULLED = """
import sys
from pathlib import Path
from tests.rootfs.local_images import LocalService
from tests.support.layers import Entry

service = LocalService(Path(sys.argv[1]) / "store")
if not service.list_images():
    service.put_layers([Entry("a")], [Entry("b")], ref="local/app:1")
pod = service.create_pod("local/app:1", policy="never")
assert sorted(path.name for path in pod.rootfs.iterdir()) == ["a", "b"]
print(pod.driver)
service.end()
"""
BETTER = """
import subprocess, sys
from pathlib import Path
from micropod_img import diagnose
from tests.rootfs.local_images import LocalService
from tests.support.layers import Entry

service = LocalService(Path(sys.argv[1]) / "store")
ref = service.put_layers([Entry("a")], [Entry("b")])
first = service.create_pod(ref, policy="never")
subprocess.run(["umount", "/dev/fuse"], check=True)
second = service.create_pod(ref, policy="never")
assert first.driver == second.driver == "copy"
[found] = [one for one in diagnose(service.root).findings if one.subject == "driver"]
assert (found.state, found.facts["driver"]) == ("warning", "copy")
assert "remove all pods: the next one is made with fuse-overlayfs" in found.hint
service.end()
assert service.create_pod(ref, policy="never").driver == "fuse-overlayfs"
service.end()
"""
BAKED = """
import sys
from pathlib import Path
from micropod_img.rootfs.drivers import choice
from micropod_img.rootfs.drivers.copies import CopyDriver
from tests.rootfs.local_images import LocalService
from tests.support.layers import Entry

choice.drivers = lambda layout: (CopyDriver(),)
service = LocalService(Path(sys.argv[1]) / "store")
service.create_pod(service.put_layers([Entry("a")], ref="local/app:1"), pod_id="baked", policy="never")
"""
USED = """
import sys
from pathlib import Path
from tests.rootfs.local_images import LocalService

service = LocalService(Path(sys.argv[1]) / "store")
assert service.create_pod("local/app:1", policy="never", pod_id="new").driver == "copy"
for pod in ("baked", "new"):
    service.remove_pod(pod)
assert service.list_pods() == [] and list((service.root / "pods").iterdir()) == []
service.delete_image("local/app:1")
service.collect_garbage()
assert service.list_images() == []
assert list((service.root / "tmp").iterdir()) == []
"""
COMMANDS = """
import json, os, subprocess, sys
from pathlib import Path
from tests.rootfs.local_images import LocalService
from tests.support.layers import Entry

root = Path(sys.argv[1]) / "store"
ref = LocalService(root).put_layers([Entry("a")], [Entry("b")])
micropod = [sys.executable, "-m", "micropod_img", "--root", str(root)]
def err(*argv):
    return subprocess.run([*micropod, *argv], capture_output=True, text=True, check=True).stderr
create = ("pod", "create", "--policy", "never", ref)
told = [err(*create), err(*create)]
doctor = subprocess.run([*micropod, "doctor", "--json"], capture_output=True, text=True, check=True)
print(json.dumps([*told, json.loads(doctor.stdout)]))
"""
PUT = f"""
import os, shutil, sys
from pathlib import Path
sys.path.insert(0, {str(CHECKOUT)!r})
from tests.rootfs.local_images import LocalService
from tests.support.layers import Entry, whiteout

place = Path(sys.argv[1])
store = LocalService(place / "store")
store.put_layers([Entry("a", uid=1000), Entry("gone")], [whiteout("gone"), Entry("b")], ref="local/app:1")
for one in (place, *place.rglob("*")):
    shutil.chown(one, {UID}, {UID})
"""

OVERLAY = "-t overlay -o lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work overlay {0}/place"
NO_FUSE = "--bind /dev/null /dev/fuse"


class Place(NamedTuple):
    """A filesystem for a store, and what root filesystems are made with there.

    Attributes:
        driver: The driver that is chosen.
        mounts: Words of mount(8); ``{0}`` is a directory.
        make: The program that makes a filesystem in a file, if it takes one.
    """

    driver: str
    mounts: tuple[str, ...]
    make: str = ""


PLACES = {
    "ext4": Place("overlay", ("-o loop {0}/image {0}/place",), "mkfs.ext4"),
    "xfs": Place("overlay", ("-o loop {0}/image {0}/place",), "mkfs.xfs"),
    "btrfs": Place("overlay", ("-o loop {0}/image {0}/place",), "mkfs.btrfs"),
    "tmpfs": Place("overlay", ("-t tmpfs none {0}/place",)),
    "no extended attributes": Place("copy", ("-t ramfs none {0}/place",)),
    "an overlay": Place("fuse-overlayfs", (OVERLAY,)),
    "an overlay without fuse": Place("copy", (OVERLAY, NO_FUSE)),
}


@as_root
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_store_on_each_filesystem_finds_a_driver_that_works(place: Place, tmp_path: Path, program: Path) -> None:
    assert program
    require_program("fuse-overlayfs", package="fuse-overlayfs")
    done = run_with_mounts(PODS, tmp_path / "place", mounts=made(place, tmp_path))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["driver"] == place.driver
    better = ["overlay", "fuse-overlayfs", "copy"]
    assert list(told["rejected"]) == better[: better.index(place.driver)]
    assert told["plain"] == 5


@as_root
def test_root_of_a_container_that_may_not_mount_copies(tmp_path: Path, program: Path) -> None:
    """With the capabilities that docker and podman leave to root of a container."""
    assert program
    (tmp_path / "place").mkdir()
    left = "chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot mknod setfcap"
    bounding = ",+".join(["-all", *left.split()])
    limited = ("setpriv", f"--bounding-set={bounding}", "--inh-caps=-all", "--")
    done = run(
        *(*limited, sys.executable, "-c", PODS, str(tmp_path / "place")),
        environment={"PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["driver"], told["rejected"]["overlay"]) == ("copy", "Operation not permitted")
    assert "in a container, --cap-add SYS_ADMIN" in told["hint"]


def made(place: Place, directory: Path) -> list[str]:
    """Return the mounts of a place, its filesystem made."""
    if not FUSE.exists():
        missing(f"{FUSE} is missing: modprobe fuse")
    for name in ("place", "lower", "upper", "work"):
        (directory / name).mkdir()
    if place.make:
        with (directory / "image").open("wb") as image:
            image.truncate(SIZE)
        done = run(require_program(place.make, package=PACKAGES[place.make]), "-q", directory / "image")
        assert done.returncode == 0, done.stderr
    return [mount.format(shlex.quote(str(directory))) for mount in place.mounts]


@as_root
@pytest.mark.parametrize("make", ["mkfs.xfs", "mkfs.btrfs"])
def test_copies_share_their_blocks_where_the_filesystem_can(make: str, tmp_path: Path, program: Path) -> None:
    assert program
    place = Place("copy", ("-o loop {0}/image {0}/place",), make)
    done = run_with_mounts(SHARED, tmp_path / "place", mounts=made(place, tmp_path))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 << 20  # of three pods with 16 MiB each


@as_root
def test_a_store_that_was_moved_onto_an_overlay_gets_another_driver(tmp_path: Path, program: Path) -> None:
    """As one that was filled when a container's image was built, and is used in the container."""
    assert program
    mounts = made(PLACES["an overlay"], tmp_path)
    before = run_with_mounts(PULLED, tmp_path / "lower", mounts=["-t tmpfs none /mnt"])
    assert before.stdout == "overlay\n", before.stderr
    after = run_with_mounts(PULLED, tmp_path / "place", mounts=mounts)
    assert after.stdout == "fuse-overlayfs\n", after.stderr


@as_root
def test_a_better_driver_is_taken_when_it_works_and_no_pod_needs_the_old_one(tmp_path: Path, program: Path) -> None:
    assert program
    mounts = [*made(PLACES["an overlay"], tmp_path), NO_FUSE]
    done = run_with_mounts(BETTER, tmp_path / "place", mounts=mounts)
    assert done.returncode == 0, done.stderr


@as_root
def test_what_a_containers_image_brought_along_is_removed_or_kept_and_stops_nothing(
    tmp_path: Path, program: Path
) -> None:
    """Directories of a lower layer cannot be renamed, and a snapshot of one takes no room."""
    assert program
    mounts = [NO_FUSE, *made(PLACES["an overlay"], tmp_path)]
    before = run_with_mounts(BAKED, tmp_path / "lower", mounts=[NO_FUSE])
    assert before.returncode == 0, before.stderr
    after = run_with_mounts(USED, tmp_path / "place", mounts=mounts)
    assert after.returncode == 0, after.stderr


@as_root
def test_a_lesser_driver_is_never_taken_in_silence(tmp_path: Path, program: Path) -> None:
    """On an overlay and without fuse each command that makes a pod says that it copies, and why; JSON has it too."""
    assert program
    mounts = made(PLACES["an overlay without fuse"], tmp_path)
    done = run_with_mounts(COMMANDS, tmp_path / "place", mounts=mounts)
    assert done.returncode == 0, done.stderr
    created, again, document = json.loads(done.stdout)
    for said in (created, again):
        assert "each layer and each pod is a copy" in said
        assert "not supported as upperdir" in said
    facts = {one["subject"]: one["facts"] for one in document["data"]["findings"]}["driver"]
    assert facts["driver"] == facts["recorded"] == "copy"
    assert set(facts["rejected"]) == {"overlay", "fuse-overlayfs"}


@as_root
@pytest.mark.parametrize(
    ("name", "driver"),
    [("tmpfs", "overlay-userxattr"), ("an overlay", "fuse-overlayfs"), ("an overlay without fuse", "copy")],
)
def test_an_ordinary_users_store_finds_one_too(name: str, driver: str, program: Path) -> None:
    assert program
    with ordinary_user() as user:
        root = user.home / "place/store"
        let_everybody_use_fuse(user)
        for mount in made(PLACES[name], user.home):
            as_root_beside(user, "sh", "-c", f"mount {mount}")
        as_root_beside(user, sys.executable, "-c", PUT, user.home / "place")
        micropod = (sys.executable, "-m", "micropod_img", "--root", root)
        created = user.run(*micropod, "pod", "create", "--json", "--policy", "never", "local/app:1")
        assert created.returncode == 0, created.stderr
        pod = json.loads(created.stdout)["data"]["pod"]
        assert pod["driver"] == driver
        look = "stat -c '%n %u' a b && touch new && ls gone"
        seen = user.run(*micropod, "unshare", "sh", "-c", f"cd {pod['rootfs']} && {look}")
        assert seen.stdout == "a 1000\nb 0\n"
        assert "gone" in seen.stderr
        for command in (("umount",), ("mount",), ("rm",)):
            done = user.run(*micropod, "pod", *command, pod["id"])
            assert done.returncode == 0, done.stderr


def as_root_beside(user: OrdinaryUser, *argv: str | Path) -> None:
    """Run a program as root in the mount namespace in which the user is known."""
    done = run("nsenter", f"--target={user.namespace}", "--mount", *argv)
    assert done.returncode == 0, done.stderr


def let_everybody_use_fuse(user: OrdinaryUser) -> None:
    """Give the device the mode that it has where udev is."""
    device = user.home.parent / "fuse"
    as_root_beside(user, "sh", "-c", f"mknod -m 666 {device} c 10 229 && mount --bind {device} /dev/fuse")
