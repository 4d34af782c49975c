"""Bundles are started by real runtimes, and what counts is what the process inside says."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import UnsupportedError
from tests.rootfs.local_images import LocalService
from tests.rootfs.runnable_images import REF, runnable
from tests.rootfs.unpacking import as_root
from tests.support.processes import require_program, run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from micropod_img.models import Pod

pytestmark = as_root

HYBRID_CGROUPS = Path("/sys/fs/cgroup/unified")

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


def test_arguments_replace_the_command_and_the_entrypoint_stays(
    service: LocalService, runtime: Runtime, busybox: bytes
) -> None:
    ref = service.put(runnable(busybox, Entrypoint=["/bin/sh", "-c", 'echo "$0" "$@"', "entrypoint"], Cmd=["command"]))
    assert runtime.output(service.create_pod(ref, bundle=True, policy="never")) == "entrypoint command\n"
    made = service.create_pod(ref, bundle=True, args=["given", "two words"], policy="never")
    assert runtime.output(made) == "entrypoint given two words\n"


def test_a_working_directory_that_the_image_does_not_have_is_made(
    service: LocalService, runtime: Runtime, busybox: bytes
) -> None:
    ref = service.put(runnable(busybox, WorkingDir="/made/up"))
    assert runtime.output(pod(service, "pwd; ls -ld .", ref=ref)).startswith("/made/up\ndrwxr-xr-x")


def test_there_is_no_terminal(service: LocalService, runtime: Runtime) -> None:
    script = "for stream in 0 1 2; do test -t $stream && echo terminal; done; echo $TERM"
    assert runtime.output(pod(service, script)) == "\n"


def test_an_unknown_user_runs_as_nobody_and_leaves_no_pod(service: LocalService, busybox: bytes) -> None:
    with pytest.raises(UnsupportedError, match="nobody"):
        pod(service, "id", ref=service.put(runnable(busybox, User="nobody")))
    assert service.list_pods() == []


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
