"""Pods of an ordinary user: made, started by real runtimes, mounted again and removed, by somebody without rights."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.rootfs.userns import COST_OF_ONE_ID
from tests.rootfs.local_images import put_image
from tests.rootfs.runnable_images import REF, runnable
from tests.support.images import image
from tests.support.layers import layer
from tests.support.ordinary_user import FIRST_SUBORDINATE_ID, UID, OrdinaryUser, ordinary_user
from tests.support.processes import require_program, run
from tests.support.push import push

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

    from tests.support.images import Manifest
    from tests.support.registries import Registry

BY_NAME = "local/by-name:1"
WITH_THREADS = """
import sys, threading
from micropod_img import ImageService, MicropodError
threading.Thread(target=threading.Event().wait, daemon=True).start()
service = ImageService(sys.argv[1])
try:
    {call}
    print("done")
except MicropodError as error:
    print(error.exit_status, error.code)
"""
WITHOUT_NAMESPACES = """
import sys
from micropod_img import ImageService
from micropod_img.errors import UnsupportedError
from micropod_img.rootfs import userns
from micropod_img.store.layout import StoreLayout

def refused(*_):
    raise UnsupportedError("user namespaces are not allowed here any more")

service = ImageService(sys.argv[1])
userns.stop(StoreLayout(service.root))
userns._start = refused
for ref in sys.argv[2:]:
    service.delete_image(ref)
print(len(service.list_images()))
"""
MICROPOD = (sys.executable, "-m", "micropod_img")


@dataclass(frozen=True)
class UsersStore:
    """A store of an ordinary user, and its commands."""

    user: OrdinaryUser
    root: Path

    def put(self, images: Mapping[str, Manifest]) -> None:
        for ref, manifest in images.items():
            put_image(self.root, manifest, ref)
        for one in (self.root, *self.root.rglob("*")):
            shutil.chown(one, UID, UID)

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        return self.user.run(*MICROPOD, "--root", self.root, *argv)

    def succeed(self, *argv: str | Path) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, *options: str, ref: str = REF) -> Path:
        """Make a pod; return its root filesystem."""
        said = json.loads(self.succeed("--json", "pod", "create", "--bundle", *options, "--policy", "never", ref))
        return Path(said["data"]["pod"]["rootfs"])

    def start(self, runtime: str, rootfs: Path) -> str:
        """Start a pod's bundle where it is mounted; return what the process in it said."""
        state = self.user.home / runtime
        program = require_program(runtime, package=runtime)
        return self.succeed("unshare", program, "--root", state, "run", "--bundle", rootfs.parent, "test")


@pytest.fixture
def store(busybox: bytes) -> Iterator[UsersStore]:
    with ordinary_user() as user:
        made = UsersStore(user, user.home / "store")
        made.put({REF: runnable(busybox), BY_NAME: runnable(busybox, User="app")})
        yield made


@pytest.fixture
def poor(busybox: bytes) -> Iterator[UsersStore]:
    """The store of somebody without subordinate ids."""
    with ordinary_user(subordinate_ids=False) as user:
        made = UsersStore(user, user.home / "store")
        made.put({REF: runnable(busybox), BY_NAME: runnable(busybox, User="app")})
        yield made


def show_only_the_second_cgroups(user: OrdinaryUser) -> None:
    """Let a user see what today's systems have: crun does not work with both versions mounted."""
    done = run(
        *("nsenter", f"--target={user.namespace}", "--mount", "mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize(
    ("ref", "who"), [(REF, "uid=0(root) gid=0"), (BY_NAME, "uid=1000(app) gid=1001(app) groups=6(disk),1001(app)")]
)
def test_a_runtime_starts_what_an_ordinary_user_made(store: UsersStore, runtime: str, ref: str, who: str) -> None:
    show_only_the_second_cgroups(store.user)
    script = "id; cat /base /middle /top; ls /gone 2>&1; echo $GREETING; cat /srv/app/own; echo mine > /srv/app/own"
    first, second = (store.create("--args", f"/bin/sh -c '{script}'", ref=ref) for _ in range(2))
    for pod in (first, second):
        lines = store.start(runtime, pod).splitlines()
        assert lines[0].startswith(who)
        assert lines[1:4] == ["from the base", "from the middle", "from the top"]
        assert "No such file" in lines[4]
        assert lines[5:] == ["hello world"]  # nothing that the other one wrote
    assert store.succeed("unshare", "cat", first / "srv/app/own") == "mine\n"


def test_a_process_may_not_do_more_than_its_user(store: UsersStore) -> None:
    show_only_the_second_cgroups(store.user)
    secret = store.user.home.parent / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    pod = store.create("--args", "/bin/sh -c 'touch /sys/x /proc/sys/x; ls /sys/class/net; cat /proc/self/uid_map'")
    said = store.start("crun", pod).split()
    assert said == ["lo", "0", str(UID), "1", "1", str(FIRST_SUBORDINATE_ID), "65536"]
    assert store.run("unshare", "cat", secret).returncode != 0


def test_a_bundle_sets_no_limits_that_only_root_could(store: UsersStore) -> None:
    rootfs = store.create()
    assert "resources" not in json.loads((rootfs.parent / "config.json").read_text())["linux"]


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_without_subordinate_ids_images_of_root_run(poor: UsersStore, runtime: str) -> None:
    show_only_the_second_cgroups(poor.user)
    pod = poor.create("--args", "/bin/sh -c 'id; cat /base /top; echo mine > /new; ls -ln /srv/app/own'")
    lines = poor.start(runtime, pod).splitlines()
    assert lines[0].startswith("uid=0(root)")
    assert lines[1:3] == ["from the base", "from the top"]
    assert lines[3].split()[2:4] == ["0", "0"]  # of 1000:1001 in the image


def test_without_subordinate_ids_it_is_said_once_what_that_costs(poor: UsersStore) -> None:
    create = ("pod", "create", "--policy", "never", REF)
    first, second = poor.run(*create), poor.run(*create)
    assert first.stderr.count(COST_OF_ONE_ID) == 1
    assert second.stderr == ""


def test_without_subordinate_ids_an_image_with_a_user_of_its_own_gets_no_bundle(poor: UsersStore) -> None:
    done = poor.run("pod", "create", "--bundle", "--policy", "never", BY_NAME)
    assert done.returncode == 8
    assert "runs as 1000:1001, and there is no such id in this user namespace" in done.stderr
    assert "/etc/subuid" in done.stderr
    assert json.loads(poor.succeed("--json", "pod", "ls"))["data"] == {"pods": []}


def test_pods_are_seen_in_the_namespace_only_and_leave_nothing(store: UsersStore) -> None:
    rootfs = store.create("--args", "/bin/true", ref=BY_NAME)
    assert list(rootfs.iterdir()) == []
    assert store.succeed("unshare", "ls", rootfs / "srv/app") == "own\n"
    store.succeed("unshare", "sh", "-c", f"echo written > {rootfs}/srv/app/own")
    assert (rootfs.parent / "upper/srv/app/own").stat().st_uid == FIRST_SUBORDINATE_ID + 999
    store.succeed("pod", "rm", rootfs.parent.name)
    store.succeed("rmi", REF, BY_NAME)
    assert [path.name for path in (store.root / "snapshots").iterdir() if path.is_dir()] == []
    assert list((store.root / "tmp").iterdir()) == []


def test_the_status_of_what_unshare_runs_is_its_own(store: UsersStore) -> None:
    assert store.run("unshare", "sh", "-c", "exit 7").returncode == 7


def test_whether_a_pod_is_mounted_is_known_outside_of_the_namespace(store: UsersStore) -> None:
    pod = store.create().parent.name
    mounted = []
    for command in ("inspect", "umount", "inspect", "mount", "inspect"):
        said = json.loads(store.succeed("--json", "pod", command, pod))
        mounted.append(said["data"]["pod"]["mounted"])
    assert mounted == [True, False, False, True, True]


def test_a_pod_says_in_whose_namespaces_its_files_are(store: UsersStore) -> None:
    rootfs = store.create()
    said = json.loads(store.succeed("--json", "pod", "inspect", rootfs.parent.name))["data"]["pod"]
    holder = int((store.root / "locks/namespace").read_text().split()[0])
    assert said["namespace_pid"] == holder
    assert run("nsenter", f"--target={holder}", "--user", "--mount", "cat", rootfs / "base").stdout == "from the base\n"
    assert f"the namespaces of process {holder}" in store.succeed("pod", "inspect", rootfs.parent.name)


def test_a_pod_outlives_the_end_of_its_namespace(store: UsersStore) -> None:
    """As after a reboot: what held the namespace is gone, and with it all mounts."""
    rootfs = store.create(ref=BY_NAME)
    pod = rootfs.parent.name
    store.succeed("unshare", "sh", "-c", f"echo written > {rootfs}/srv/app/own")
    end_namespace(store)
    said = json.loads(store.succeed("--json", "pod", "inspect", pod))["data"]["pod"]
    assert (said["mounted"], said["namespace_pid"]) == (False, None)
    store.succeed("pod", "mount", pod)
    assert store.succeed("unshare", "cat", rootfs / "srv/app/own", rootfs / "base") == "written\nfrom the base\n"
    end_namespace(store)
    store.succeed("pod", "rm", pod)
    assert list((store.root / "pods").iterdir()) == list((store.root / "tmp").iterdir()) == []


def end_namespace(store: UsersStore) -> None:
    holder = int((store.root / "locks/namespace").read_text().split()[0])
    os.kill(holder, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{holder}/ns/mnt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_busy_pod_says_who_holds_it(store: UsersStore) -> None:
    rootfs = store.create()
    script = f"cd {rootfs} && echo there && exec sleep 60"
    with store.user.start(*MICROPOD, "--root", store.root, "unshare", "sh", "-c", script) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "there\n"
        for command in ("umount", "rm"):
            done = store.run("pod", command, rootfs.parent.name)
            assert done.returncode == 9
            assert "(sleep, its working directory)" in done.stderr
        inside.kill()
    store.succeed("pod", "rm", rootfs.parent.name)


def test_a_pod_is_pulled_first_with_its_progress_on_a_terminal(
    store: UsersStore, crane: Path, crane_registry: Registry
) -> None:
    """Bars are drawn by a thread, beside which nobody enters a user namespace."""
    assert crane
    ref = push(crane_registry, "ordinary-user/terminal", "v1", image([layer({"a": os.urandom(1 << 20)})]))
    script = require_program("script", package="bsdutils")
    command = [*MICROPOD, "--root", str(store.root), "pod", "create", ref]
    done = store.user.run(script, "-qec", shlex.join(command), "/dev/null", environment={"TERM": "xterm"})
    assert done.returncode == 0, done.stdout
    assert "of 1.0 MiB" in done.stdout
    assert json.loads(store.succeed("--json", "pod", "ls"))["data"]["pods"][0]["mounted"]


def test_a_credential_helper_is_run_as_the_user(store: UsersStore, crane: Path, crane_registry: Registry) -> None:
    """Inside of the namespace it would be root, whose keyring is another one."""
    assert crane
    ref = push(crane_registry, "ordinary-user/helper", "v1", image([layer({"a": b"1"})]))
    helper = store.user.home / "docker-credential-who"
    helper.write_text(
        f'#!/bin/sh\nid -u > {store.user.home}/who; echo "credentials not found in native keychain"; exit 1\n'
    )
    helper.chmod(0o755)
    auths = store.user.home / "auth.json"
    auths.write_text('{"credsStore": "who"}')
    shutil.chown(auths, UID, UID)
    environment = {"REGISTRY_AUTH_FILE": str(auths), "PATH": f"{store.user.home}:/usr/bin:/bin"}
    done = store.user.run(*MICROPOD, "--root", store.root, "pod", "create", ref, environment=environment)
    assert done.returncode == 0, done.stderr
    assert (store.user.home / "who").read_text() == f"{UID}\n"


def test_a_process_with_threads_makes_no_pod_and_pulls_nothing_for_it(store: UsersStore) -> None:
    done = store.user.python(WITH_THREADS.format(call="service.create_pod('127.0.0.1:1/nobody/there')"), store.root)
    assert done.stdout == "9 threads\n", done.stderr


def test_a_process_with_threads_removes_images_and_leaves_their_snapshots_to_gc(store: UsersStore) -> None:
    store.succeed("pod", "rm", store.create(ref=BY_NAME).parent.name)
    calls = "[service.delete_image(ref) for ref in (sys.argv[2], sys.argv[3])]"
    done = store.user.python(WITH_THREADS.format(call=calls), store.root, REF, BY_NAME)
    assert done.stdout == "done\n", done.stderr
    removed = json.loads(store.succeed("--json", "gc"))["data"]["removed"]
    assert len(removed) == 3


def test_a_user_who_may_have_no_namespace_any_more_removes_images_all_the_same(store: UsersStore) -> None:
    store.succeed("pod", "rm", store.create(ref=BY_NAME).parent.name)
    done = store.user.python(WITHOUT_NAMESPACES, store.root, REF, BY_NAME)
    assert done.stdout == "0\n", done.stderr


def test_what_a_killed_command_left_of_other_ids_is_swept_by_the_next_one_inside(store: UsersStore) -> None:
    left = store.root / "tmp/pod-dead/d"
    store.succeed(
        *("unshare", "sh", "-c", f"mkdir -p {left} && touch {left}/f && chown 7:7 {left} && chmod 700 {left}")
    )
    store.succeed("images")
    store.create()
    assert list((store.root / "tmp").iterdir()) == []


def test_inside_the_namespace_the_store_is_still_the_users(store: UsersStore) -> None:
    usual = UsersStore(store.user, store.user.home / ".local/share/micropod")
    store.root.rename(store.user.home / "moved")
    usual.root.parent.mkdir(parents=True)
    (store.user.home / "moved").rename(usual.root)
    for directory in (usual.root.parent, usual.root.parent.parent):
        shutil.chown(directory, UID, UID)
    done = store.user.run(*MICROPOD, "unshare", "env", "-u", "MICROPOD_ROOT", *MICROPOD, "images")
    assert "local/runs" in done.stdout, done.stderr
