from __future__ import annotations

import errno
import os
import shlex
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.errors import DiskError
from micropod_img.store import staging
from micropod_img.store.staging import Staging, sweep
from tests.support.images import image
from tests.support.layers import Blob, random_layer
from tests.support.layouts import put_blob
from tests.support.mounts import run_with_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.store.store import Store

CHECKOUT = Path(__file__).parent.parent.parent
LAYER = random_layer(100_000)


@pytest.fixture(params=[0o000, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest, store: Store) -> Iterator[int]:
    """In force once there is a store."""
    assert store.layout.root.exists()
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def swept(store: Store) -> list[str]:
    """Sweep, and return what is left in ``tmp/``."""
    sweep(store.layout, store.blobs)
    return sorted(path.name for path in store.layout.staging.iterdir())


# A place


def test_a_place_is_private_whatever_the_umask(umask: int, store: Store) -> None:
    with store.stage("pull") as staging:
        assert stat.S_IMODE(staging.path.stat().st_mode) == 0o700, oct(umask)
        assert staging.path.parent == store.layout.staging
        assert staging.path.name.startswith("pull-")


def test_a_place_is_gone_when_its_block_ends_with_all_that_is_in_it(store: Store, tmp_path: Path) -> None:
    outside = tmp_path.stat()
    with store.stage("pull") as staging:
        fsutil.make_directory(staging.blobs)
        (staging.blobs / "file").write_bytes(b"x")
        (staging.path / "no entry").mkdir()
        (staging.path / "no entry" / "read only").mkdir()
        (staging.path / "no entry" / "read only" / "file").write_bytes(b"x")
        (staging.path / "no entry" / "out").symlink_to(tmp_path)
        (staging.path / "no entry" / "read only").chmod(0o555)
        (staging.path / "no entry").chmod(0)
    assert tmp_path.stat() == outside
    assert list(store.layout.staging.iterdir()) == []


def test_a_place_is_gone_after_an_error_too(store: Store) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with pytest.raises(ZeroDivisionError), store.stage("pull"):
        raise ZeroDivisionError
    assert list(store.layout.staging.iterdir()) == []
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


IS_BUSY = """
import os, subprocess, sys
from pathlib import Path
from micropod_img.store.store import Store
store = Store(Path(sys.argv[1]))
before = len(os.listdir("/proc/self/fd"))
try:
    with store.stage("pull") as staging:
        (staging.path / "busy").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", staging.path / "busy"], check=True)
        raise ZeroDivisionError
except ZeroDivisionError:
    print(len(os.listdir("/proc/self/fd")) - before, staging.path.exists())
(store.layout.staging / "a").mkdir()
(store.layout.staging / "z").mkdir()
store.prepare()
print([path.name for path in store.layout.staging.iterdir()] == [staging.path.name])
subprocess.run(["umount", staging.path / "busy"], check=True)
store.prepare()
print(list(store.layout.staging.iterdir()))
"""


def test_what_cannot_be_removed_hides_no_error_holds_no_lock_and_keeps_nobody_from_work(store: Store) -> None:
    done = run_with_mounts(IS_BUSY, store.layout.root, mounts=[])
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["0 True", "True", "[]"]


def test_two_places_of_one_purpose_are_two(store: Store) -> None:
    with store.stage("pull") as first, store.stage("pull") as second:
        assert first.path != second.path


def test_a_place_in_a_store_that_is_not_made_is_an_error_of_the_disk(store: Store) -> None:
    store.layout.staging.rmdir()
    with pytest.raises(DiskError, match="tmp"), store.stage("pull"):
        pass


def test_the_filesystem_is_probed_and_nothing_left(store: Store) -> None:
    with store.stage("pull") as staging:
        staging.probe_filesystem()
        assert list(staging.path.iterdir()) == []
    assert list(store.layout.blobs.iterdir()) == []


PROBES = """
import sys
from pathlib import Path
from micropod_img.errors import DiskError
from micropod_img.store.store import Store
store = Store(Path(sys.argv[1]))
store.prepare()
with store.stage("pull") as staging:
    try:
        staging.probe_filesystem()
    except DiskError as error:
        print(error.exit_status, error.code, error.hint)
print(sorted(path.name for path in store.layout.blobs.iterdir()))
print(sorted(path.name for path in store.layout.staging.iterdir()))
"""


@pytest.mark.parametrize("name", ["images", "images/blobs", "images/blobs/sha256", "tmp"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_mount_between_staging_and_blobs_is_found_before_anything_is_fetched(
    name: str, kind: str, store: Store
) -> None:
    """A bind mount has the same device number, and links over it fail all the same."""
    path = shlex.quote(str(store.layout.root / name))
    mounts = [f"--bind {path} {path}"] if kind == "bind" else [f"-t tmpfs none {path}"]
    done = run_with_mounts(PROBES, store.layout.root, mounts=mounts)
    assert done.stderr == ""
    first, *rest = done.stdout.splitlines()
    assert first == "10 several-filesystems mount the whole state directory, not a part of it"
    assert rest == ["[]", "[]"]


def test_a_mount_of_the_whole_state_directory_is_no_obstacle(store: Store) -> None:
    root = shlex.quote(str(store.layout.root))
    done = run_with_mounts(PROBES, store.layout.root, mounts=[f"-t tmpfs none {root}"])
    assert (done.stdout, done.stderr) == ("[]\n[]\n", "")


# What killed processes leave

IS_KILLED = """
import os, sys
from pathlib import Path
from micropod_img import fsutil
from micropod_img.store.store import Store
store = Store(Path(sys.argv[1]))
with store.stage("pull") as staging:
    fsutil.make_directory(staging.blobs)
    for line in sys.stdin:
        name, size = line.split()
        (staging.blobs / name).write_bytes(Path(sys.argv[2]).read_bytes()[:int(size)])
    with store.blob_lock("sha256:" + "0" * 64, "pull"):
        os.kill(os.getpid(), 9)
"""


def killed(store: Store, content: Path, files: dict[str, int]) -> None:
    """Run a process that writes files, each with so many bytes of ``content``, and is killed then."""
    listed = "".join(f"{name} {size}\n" for name, size in files.items())
    argv = [sys.executable, "-c", IS_KILLED, str(store.layout.root), str(content)]
    ended = subprocess.run(argv, input=listed, text=True, cwd=CHECKOUT, check=False)
    assert ended.returncode == -9
    assert len(list(store.layout.staging.iterdir())) == 1


def test_what_a_killed_process_left_is_swept_and_its_complete_layers_are_kept(store: Store, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(LAYER.content)
    whole = LAYER.digest.removeprefix("sha256:")
    half = Blob("", LAYER.content[:500]).digest.removeprefix("sha256:")
    killed(
        store,
        content,
        {
            whole: LAYER.size,  # complete, and right
            half: 400,  # the data of its second part did not survive the power cut
            "f" * 64: LAYER.size,  # what is in it is something else
            f"{half}123456": 300,  # crane was writing it
            "notes": 10,
        },
    )
    assert list(store.layout.locks.iterdir()) != []
    assert swept(store) == []
    assert store.blobs.sizes() == {LAYER.digest: LAYER.size}
    assert store.layout.blob(LAYER.digest).read_bytes() == LAYER.content
    assert stat.S_IMODE(store.layout.blob(LAYER.digest).stat().st_mode) == 0o644
    assert store.layout.blob(LAYER.digest).stat().st_nlink == 1
    assert list(store.layout.locks.iterdir()) == []


def test_a_layer_that_is_here_already_is_not_kept_twice(store: Store, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(LAYER.content)
    path = put_blob(store.layout.images, LAYER)
    inode = path.stat().st_ino
    killed(store, content, {LAYER.digest.removeprefix("sha256:"): LAYER.size})
    assert swept(store) == []
    assert path.stat().st_ino == inode


def test_what_is_in_the_trash_is_not_kept(store: Store) -> None:
    trash = store.layout.staging / "trash-123"
    trash.mkdir()
    (trash / LAYER.digest.removeprefix("sha256:")).write_bytes(LAYER.content)
    assert swept(store) == []
    assert store.blobs.sizes() == {}


def test_a_place_that_somebody_works_in_is_not_swept(store: Store) -> None:
    with store.stage("pull") as staging:
        (staging.path / "file").write_bytes(b"x")
        assert swept(store) == [staging.path.name]
        assert (staging.path / "file").exists()


@pytest.mark.parametrize("name", ["blob-01.lock", "snapshot-01.lock", "index.lock", "driver.lock"])
def test_a_lock_file_of_a_killed_process_is_swept(name: str, store: Store) -> None:
    (store.layout.locks / name).write_bytes(b"process 1 (pull)")
    swept(store)
    assert list(store.layout.locks.iterdir()) == []


def test_a_lock_that_somebody_holds_is_not_swept(store: Store) -> None:
    with store.blob_lock(LAYER.digest, "pull"):
        (path,) = store.layout.locks.iterdir()
        swept(store)
        assert path.exists()


def test_a_place_is_not_swept_while_a_child_of_its_killed_owner_lives(store: Store) -> None:
    with store.stage("pull") as staging:
        descriptor = os.dup(staging.descriptor)
        kept = staging.path
        moved = kept.with_name("pull-kept")
        kept.rename(moved)
    try:
        assert swept(store) == ["pull-kept"]
    finally:
        os.close(descriptor)
    assert swept(store) == []


def test_a_place_is_swept_at_once_though_children_of_its_killed_owner_are_only_about_to_die(store: Store) -> None:
    code = (
        "import os, subprocess, sys; from pathlib import Path; from micropod_img.store.store import Store\n"
        "with Store(Path(sys.argv[1])).stage('pull') as staging:\n"
        "    subprocess.Popen(['/bin/sleep', '0.3'], pass_fds=[staging.descriptor])\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(store.layout.root)], check=False)
    assert swept(store) == []


@pytest.mark.parametrize("kind", ["file", "symbolic link", "dangling link", "FIFO", "socket", "no permission"])
def test_whatever_else_is_in_tmp_is_removed_and_holds_nobody_up(kind: str, store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    path = store.layout.staging / "thing"
    if kind == "file":
        path.write_bytes(b"x")
    elif kind == "symbolic link":
        path.symlink_to(outside)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(path.parent)
            listener.bind("thing")
            os.chdir(CHECKOUT)
    else:
        path.mkdir(mode=0)
    assert swept(store) == []
    assert (outside / "precious").exists()


def test_a_place_with_links_that_lead_outside_is_removed_and_what_they_lead_to_is_not(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_bytes(LAYER.content)
    blobs = store.layout.staging / "pull-1" / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / "link").symlink_to(tmp_path)
    (blobs / LAYER.digest.removeprefix("sha256:")).symlink_to(tmp_path / "precious")
    (blobs / ("0" * 64)).mkdir()
    assert swept(store) == []
    assert (tmp_path / "precious").read_bytes() == LAYER.content
    assert store.blobs.sizes() == {}


def test_a_directory_that_becomes_a_link_while_its_tree_is_removed_is_not_followed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "precious").touch()
    place = store.layout.staging / "unpack-1"
    (place / "victim").mkdir(parents=True)
    listed = os.fwalk
    swapped: list[str] = []

    def swapping(top: Path, **options: bool) -> Iterator[tuple[str, list[str], list[str], int]]:
        for found in listed(top, follow_symlinks=options["follow_symlinks"]):
            if "victim" in found[1]:  # listed as a directory
                (place / "victim").rename(tmp_path / f"moved-{len(swapped)}")
                (place / "victim").symlink_to(outside)
                swapped.append("victim")
            yield found

    monkeypatch.setattr(os, "fwalk", swapping)
    monkeypatch.setattr(staging, "remove_tree_if_possible", lambda _: None)
    store.prepare()
    assert swapped
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755
    monkeypatch.undo()
    assert swept(store) == []
    assert (outside / "precious").exists()


def test_a_full_disk_keeps_nobody_from_sweeping(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    content = tmp_path / "content"
    content.write_bytes(LAYER.content)
    killed(store, content, {LAYER.digest.removeprefix("sha256:"): LAYER.size})
    monkeypatch.setattr(os, "link", full)
    assert swept(store) == []


# Everybody at once

MAKES_PLACES = """
import sys, time
from pathlib import Path
from micropod_img.store.store import Store
store = Store(Path(sys.argv[1]))
deadline = time.monotonic() + float(sys.argv[2])
made = 0
while time.monotonic() < deadline:
    with store.stage("pull") as staging:
        (staging.path / "file").write_bytes(b"x")
        assert (staging.path / "file").read_bytes() == b"x"
    made += 1
print(made)
"""
SWEEPS = """
import sys, time
from pathlib import Path
from micropod_img.store.store import Store
store = Store(Path(sys.argv[1]))
deadline = time.monotonic() + float(sys.argv[2])
swept = 0
while time.monotonic() < deadline:
    store.prepare()
    swept += 1
print(swept)
"""


def test_sweeps_take_no_place_from_anyone_who_just_made_it(store: Store) -> None:
    argv = [str(store.layout.root), "1.2"]
    processes = [
        subprocess.Popen([sys.executable, "-c", script, *argv], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
        for script in (MAKES_PLACES, MAKES_PLACES, SWEEPS, SWEEPS)
    ]
    done = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert all(int(number) > 20 for number in done)
    assert swept(store) == []


def test_a_place_that_a_sweep_takes_before_it_is_locked_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    taken: list[str] = []

    def swept_first(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name.startswith("pull-") and len(taken) < 3:
            taken.append(str(path))
            if len(taken) < 3:
                Path(path).rmdir()
            else:  # opened in time, and swept before it was locked
                descriptor = opened(path, flags, mode)
                Path(path).rmdir()
                return descriptor
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", swept_first)
    with Staging(store.layout, "pull") as staging:
        assert len(taken) == 3
        assert staging.path.is_dir()
        assert fsutil.same_file(staging.descriptor, staging.path)


def test_a_layer_that_is_salvaged_while_others_look_is_never_seen_half(store: Store, tmp_path: Path) -> None:
    layer = random_layer(3_000_000, seed=1)
    content = tmp_path / "content"
    content.write_bytes(layer.content)
    done = threading.Event()
    seen: set[int] = set()

    def look() -> None:
        while not done.is_set():
            seen.update(store.blobs.sizes().values())
            time.sleep(0.0001)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        killed(store, content, {layer.digest.removeprefix("sha256:"): layer.size})
        assert swept(store) == []
    finally:
        done.set()
        thread.join()
    assert seen <= {layer.size}
    assert image([layer]).layers[0].digest in store.blobs.sizes()
