"""Bundles are started by real runtimes, and what counts is what the process inside says."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rootfs.local_images import LocalService, put_image
from tests.rootfs.unpacking import as_root
from tests.support.images import image
from tests.support.layers import Entry, directory, layer, symlink, whiteout
from tests.support.ordinary_user import FIRST_SUBORDINATE_ID, UID, ordinary_user
from tests.support.processes import require_program, run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from micropod_img.models import Pod
    from tests.support.images import Manifest

pytestmark = as_root

HYBRID_CGROUPS = Path("/sys/fs/cgroup/unified")
REF = "local/runs:1"
PASSWD = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv/app:/bin/sh\n"
GROUP = b"app:x:1001:\ndisk:x:6:app\n"

_numbers = itertools.count()


@dataclass(frozen=True)
class Runtime:
    """An OCI runtime as Debian brings it; its state is the test's."""

    program: str
    state: Path

    def run(self, pod: Pod) -> subprocess.CompletedProcess[str]:
        assert pod.bundle is not None
        argv = [*self.argv(), "run", "--bundle", str(pod.bundle), f"micropod-test-{os.getpid()}-{next(_numbers)}"]
        if self.program.endswith("crun") and HYBRID_CGROUPS.exists():
            # crun does not work with both versions of cgroups mounted; what is unmounted here, only it does not see.
            argv = ["unshare", "--mount", "sh", "-c", f'umount {HYBRID_CGROUPS} && exec "$0" "$@"', *argv]
        return run(*argv)

    def argv(self) -> list[str]:
        manager = ["--cgroup-manager=cgroupfs"] if self.program.endswith("crun") else []
        return [self.program, "--root", str(self.state), *manager]

    def output(self, pod: Pod) -> str:
        done = self.run(pod)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Runtime:
    return Runtime(require_program(request.param, package=request.param), tmp_path / "runtime")


@pytest.fixture(scope="module")
def busybox() -> bytes:
    found = Path(require_program("busybox", package="busybox-static")).read_bytes()
    if b"/ld-linux" in found:
        pytest.fail("busybox needs libraries: apt-get install busybox-static", pytrace=False)
    return found


def runnable(busybox: bytes, **config: object) -> Manifest:
    """An image of three layers with a shell in it; the second and third change what is below."""
    base = [
        *(directory(name) for name in ("bin", "etc", "tmp", "data", "srv", "srv/app")),
        Entry("bin/busybox", busybox, mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in ("sh", "cat", "id", "env", "ls", "touch", "pwd", "echo")),
        Entry("etc/passwd", PASSWD),
        Entry("etc/group", GROUP),
        Entry("base", b"from the base\n"),
        Entry("gone", b"whited out\n"),
        Entry("changed", b"before\n"),
        Entry("data/kept", b"in a volume\n"),
    ]
    middle = [whiteout("gone"), Entry("middle", b"from the middle\n"), Entry("changed", b"after\n")]
    top = [Entry("top", b"from the top\n"), Entry("srv/app/own", b"", uid=1000, gid=1001)]
    process = {"Env": ["PATH=/bin", "GREETING=hello world"], "Cmd": ["/bin/env"], **config}
    return image([layer(base), layer(middle), layer(top)], config={"config": process})


@pytest.fixture
def service(store_root: Path, busybox: bytes) -> Iterator[LocalService]:
    made = LocalService(store_root)
    made.put(runnable(busybox), REF)
    yield made
    made.end()


def pod(service: LocalService, script: str, *, read_only: bool = False, ref: str = REF) -> Pod:
    args = ["/bin/sh", "-c", script]
    return service.create_pod(ref, bundle=True, args=args, read_only=read_only, policy="never")


def test_the_command_of_the_image_runs_with_its_environment(service: LocalService, runtime: Runtime) -> None:
    made = service.create_pod(REF, bundle=True, policy="never")
    variables = runtime.output(made).splitlines()
    assert {"GREETING=hello world", "PATH=/bin", "HOME=/root"} <= set(variables)
    assert not [variable for variable in variables if variable.startswith("TERM=")]


def test_a_file_of_each_layer_is_there_and_none_that_was_whited_out(service: LocalService, runtime: Runtime) -> None:
    said = runtime.output(pod(service, "cat /base /middle /top /changed /data/kept; ls -d /gone 2>&1 || true"))
    assert said.splitlines()[:5] == ["from the base", "from the middle", "from the top", "after", "in a volume"]
    assert "/gone: No such file" in said


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "uid=0(root) gid=0"),
        ("app", "uid=1000(app) gid=1001(app) groups=6(disk),1001(app)"),
        ("1000", "uid=1000(app) gid=1001(app) groups=6(disk),1001(app)"),
        ("app:disk", "uid=1000(app) gid=6(disk) groups=6(disk)"),
        ("4711:4712", "uid=4711 gid=4712 groups=4712"),
    ],
)
def test_the_process_is_who_the_image_says(
    service: LocalService, runtime: Runtime, busybox: bytes, user: str, expected: str
) -> None:
    ref = service.put(runnable(busybox, User=user, WorkingDir="/srv/app"))
    said = runtime.output(pod(service, "id; pwd", ref=ref)).splitlines()
    assert said[0].startswith(expected)
    assert said[1] == "/srv/app"


def test_a_user_may_write_to_what_is_theirs_and_to_nothing_else(
    service: LocalService, runtime: Runtime, busybox: bytes
) -> None:
    ref = service.put(runnable(busybox, User="app"))
    script = "echo mine > /srv/app/own; touch /base /etc/passwd 2>/dev/null || echo refused; cat /srv/app/own"
    assert runtime.output(pod(service, script, ref=ref)).splitlines() == ["refused", "mine"]


def test_a_write_reaches_no_other_pod_and_no_snapshot(service: LocalService, runtime: Runtime) -> None:
    first, second = (pod(service, "cat /changed; echo mine > /changed; echo mine > /new; cat /changed") for _ in "ab")
    assert runtime.output(first).splitlines() == ["after", "mine"]
    assert runtime.output(second).splitlines() == ["after", "mine"]
    third = pod(service, "cat /changed; ls /new 2>&1 || true")
    assert runtime.output(third).splitlines()[0] == "after"
    assert (first.rootfs / "new").read_text() == "mine\n"
    assert not (third.rootfs / "new").exists()


def test_volumes_hold_the_files_of_the_image_and_can_be_written(
    service: LocalService, runtime: Runtime, busybox: bytes
) -> None:
    ref = service.put(runnable(busybox, Volumes={"/data": {}, "/var/lib/made": {}}))
    script = "cat /data/kept; touch /data/new /var/lib/made/new && echo written"
    assert runtime.output(pod(service, script, ref=ref)).splitlines() == ["in a volume", "written"]


def test_a_read_only_pod_cannot_be_written(service: LocalService, runtime: Runtime) -> None:
    made = pod(service, "touch /new 2>&1 || true; cat /top", read_only=True)
    said = runtime.output(made)
    assert "Read-only file system" in said
    assert said.endswith("from the top\n")
    with pytest.raises(OSError, match="Read-only file system"):
        (made.rootfs / "new").touch()
    service.unmount_pod(made.id)
    service.mount_pod(made.id)
    assert runtime.output(made) == said
    with pytest.raises(OSError, match="Read-only file system"):
        (made.rootfs / "new").touch()


def test_the_exit_status_of_the_process_comes_through(service: LocalService, runtime: Runtime) -> None:
    assert runtime.run(pod(service, "exit 42")).returncode == 42


def test_the_process_is_kept_apart(service: LocalService, runtime: Runtime) -> None:
    made = pod(service, "echo $$; cat /proc/sys/kernel/hostname; ls /sys/class/net; grep CapEff /proc/self/status")
    lines = [*runtime.output(made).splitlines(), ""]
    assert lines[:2] == ["1", made.id]
    assert "lo" in lines
    assert not [name for name in lines if name.startswith(("eth", "ens", "enp"))]


def test_a_service_that_starts_as_root_can_become_its_own_user(
    service: LocalService, runtime: Runtime, busybox: bytes
) -> None:
    ref = service.put(runnable(busybox, User="root"))
    script = "busybox chown 1000:1001 /tmp && busybox su app -s /bin/sh -c 'id; touch /tmp/mine && echo made'"
    said = runtime.output(pod(service, script, ref=ref))
    assert said.startswith("uid=1000(app)")
    assert said.endswith("made\n")


def test_a_pod_that_is_mounted_again_runs_with_what_was_written(service: LocalService, runtime: Runtime) -> None:
    made = pod(service, "cat /note 2>/dev/null; echo was here > /note")
    assert runtime.output(made) == ""
    service.unmount_pod(made.id)
    service.mount_pod(made.id)
    assert runtime.output(made) == "was here\n"


CREATE = """
import json, sys
from micropod_img.service import ImageService
made = ImageService(sys.argv[1]).create_pod(sys.argv[2], bundle=True, args=sys.argv[3:] or None, policy="never")
print(json.dumps([made.id, str(made.rootfs), made.driver]))
"""
CALL = """
import sys
from micropod_img.service import ImageService
print(getattr(ImageService(sys.argv[1]), sys.argv[2])(*sys.argv[3:]))
"""


def test_an_ordinary_user_makes_runs_and_removes_pods(busybox: bytes) -> None:
    runc = require_program("runc", package="runc")
    with ordinary_user() as user:
        store = user.home / "store"
        put_image(store, runnable(busybox, User="app"), REF)
        _give_away(store)
        script = "id; cat /base /top; ls -d /gone 2>&1; ls -ln /srv/app/own; echo written > /srv/app/own"
        created = user.run(sys.executable, "-c", CREATE, store, REF, "/bin/sh", "-c", script)
        assert created.returncode == 0, created.stderr
        pod_id, rootfs, _ = json.loads(created.stdout)
        again = user.run(sys.executable, "-c", CREATE, store, REF, "/bin/sh", "-c", "cat /srv/app/own")
        assert list(Path(rootfs).iterdir()) == []  # it is mounted in the user's namespace only

        unshare = [sys.executable, "-m", "micropod_img", "--root", str(store), "unshare"]
        start = [runc, "--root", str(user.home / "runc"), "run", "--bundle", str(Path(rootfs).parent), "c1"]
        said = user.run(*unshare, *start)
        assert said.returncode == 0, said.stderr
        lines = said.stdout.splitlines()
        assert lines[0].startswith("uid=1000(app) gid=1001(app) groups=6(disk),1001(app)")
        assert lines[1:3] == ["from the base", "from the top"]
        assert lines[-1].split()[2:4] == ["1000", "1001"]

        owner = user.run(*unshare, "sh", "-c", f"cat {shlex.quote(rootfs)}/srv/app/own; exit 7")
        assert (owner.returncode, owner.stdout) == (7, "written\n")
        untouched = Path(json.loads(again.stdout)[1])
        assert user.run(*unshare, "cat", untouched / "srv/app/own").stdout == ""
        upper = next(store.glob(f"pods/{pod_id}/*/srv/app/own"))
        assert upper.stat().st_uid == FIRST_SUBORDINATE_ID + 999

        for removed in (pod_id, json.loads(again.stdout)[0]):
            done = user.run(sys.executable, "-c", CALL, store, "remove_pod", removed)
            assert done.returncode == 0, done.stderr
        assert user.run(sys.executable, "-c", CALL, store, "delete_image", REF).returncode == 0
        assert [path.name for path in (store / "snapshots").iterdir() if path.is_dir()] == []
        assert list((store / "tmp").iterdir()) == []


def test_whether_a_pod_is_mounted_is_known_outside_of_the_namespace(busybox: bytes) -> None:
    with ordinary_user() as user:
        store = user.home / "store"
        put_image(store, runnable(busybox), REF)
        _give_away(store)
        pod_id = json.loads(user.run(sys.executable, "-c", CREATE, store, REF).stdout)[0]
        mounted = []
        for step in ("get_pod", "unmount_pod", "get_pod", "mount_pod", "get_pod"):
            said = user.run(sys.executable, "-c", CALL, store, step, pod_id)
            assert said.returncode == 0, said.stderr
            mounted.append("mounted=True" in said.stdout)
        assert mounted == [True, False, False, True, True]


def test_what_a_killed_command_left_of_other_ids_is_swept_by_the_next_one_inside(busybox: bytes) -> None:
    with ordinary_user() as user:
        store = user.home / "store"
        put_image(store, runnable(busybox), REF)
        _give_away(store)
        left = shlex.quote(str(store / "tmp/pod-dead/d"))
        make = f"mkdir -p {left} && touch {left}/f && chown 7:7 {left} && chmod 700 {left}"
        unshare = [sys.executable, "-m", "micropod_img", "--root", str(store), "unshare"]
        assert user.run(*unshare, "sh", "-c", make).returncode == 0
        assert user.run(sys.executable, "-m", "micropod_img", "--root", store, "images").returncode == 0
        assert user.run(sys.executable, "-c", CREATE, store, REF).returncode == 0
        assert list((store / "tmp").iterdir()) == []


def test_inside_the_namespace_the_store_is_still_the_users(busybox: bytes) -> None:
    with ordinary_user() as user:
        store = user.home / ".local/share/micropod"
        put_image(store, runnable(busybox), REF)
        _give_away(user.home / ".local")
        micropod = f"{shlex.quote(sys.executable)} -m micropod_img"
        said = user.run(
            sys.executable, "-m", "micropod_img", "unshare", "sh", "-c", f"env -u MICROPOD_ROOT {micropod} images"
        )
        assert "local/runs" in said.stdout, said.stderr


def _give_away(path: Path) -> None:
    for one in (path, *path.rglob("*")):
        shutil.chown(one, UID, UID)
