"""What other users, the umask and the environment can do to a store: nothing."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from micropod_img import run
from tests.cli.command_line import process
from tests.rootfs.local_images import LocalService
from tests.rootfs.unpacking import as_root
from tests.support.layers import Entry
from tests.support.processes import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.command_line import CommandLine

pytestmark = as_root

# Nothing of the caller's reaches a child by itself; this is all that any of them is given.
_BUILT = {"LC_ALL", "PATH", "HOME", "TMPDIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR"}
_BUILT |= {"XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_AUTH_CONFIG", "LANG", "GOGC"}
_BUILT |= {f"{name}_proxy" for name in ("http", "https", "no")} | {f"{name}_PROXY" for name in ("HTTP", "HTTPS", "NO")}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that everybody can look into and write to, as /tmp."""
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    place = tmp_path / "everybody"
    place.mkdir()
    place.chmod(0o1777)
    yield place
    service = LocalService(place / "store")
    service.end()


def may_look(path: Path) -> bool:
    """Whether a user who is nobody here can list a directory, or pass through it."""
    setpriv = require_program("setpriv", package="util-linux")
    argv = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "/bin/sh", "-c", f"ls '{path}' || cd '{path}'"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_nobody_else_can_look_into_a_store_or_what_is_made_of_it_whatever_the_umask(umask: int, place: Path) -> None:
    root = place / "store"
    before = os.umask(umask)
    try:
        service = LocalService(root)
        ref = service.put_layers([Entry("su", mode=0o4755), Entry("d/secret", b"1")])
        pod = service.create_pod(ref, pod_id="one", policy="never", bundle=True, args=["/su"])
        service.unpack(ref, place / "dest", policy="never")
        service.disk_usage()
    finally:
        os.umask(before)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert not may_look(root)
    assert not may_look(pod.rootfs)
    # What the store holds is private once more by itself: nobody relies on one mode alone.
    for name in ("images", "snapshots", "pods", "pods/one", "tmp", "locks"):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o700, name
    # An unpacked image is as public as the image says, as `tar` would leave it; nothing else is there.
    assert stat.S_IMODE((place / "dest").stat().st_mode) == 0o755
    assert stat.S_IMODE((place / "dest/d").stat().st_mode) == 0o755
    assert {path.name for path in place.iterdir()} == {"store", "dest"}


def test_what_others_leave_beside_a_destination_is_left_alone(place: Path) -> None:
    service = LocalService(place / "store")
    ref = service.put_layers([Entry("a")])
    theirs = place / ".dest.micropod-0123456789ab"
    theirs.mkdir()
    (theirs / "file").touch()
    os.chown(theirs, 12345, 12345)
    (place / ".dest.micropod-link").symlink_to(place)
    ours = place / ".dest.micropod-ba9876543210"
    ours.mkdir()
    service.unpack(ref, place / "dest", policy="never")
    assert (theirs / "file").exists()
    assert not ours.exists()


def test_no_child_inherits_the_environment(micropod: CommandLine, ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[set[str]] = []
    real = run.Child.__init__

    def noting(self: run.Child, argv: list[str], **options: object) -> None:
        environment = options["env"]
        assert isinstance(environment, dict)
        given.append(set(environment))
        real(self, argv, **options)  # type: ignore[arg-type]  # handed on as they are

    monkeypatch.setattr(run.Child, "__init__", noting)
    monkeypatch.setenv("LD_PRELOAD_OF_OURS", "canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    assert micropod("pull", ref).status == 0
    assert micropod("pod", "create", ref, "--id=one", "--bundle").status == 0
    assert micropod("unpack", ref, str(micropod.root.parent / "dest")).status == 0
    assert micropod("pod", "rm", "one").status == 0
    assert micropod("tags", ref.partition(":v1")[0]).status == 0
    assert len(given) > 5
    assert set().union(*given) <= _BUILT


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("MICROPOD_ROOT", "", 2),
        ("MICROPOD_ROOT", "/", 9),
        ("MICROPOD_ROOT", "/etc", 9),
        ("MICROPOD_ROOT", "/dev/null", 10),
        ("MICROPOD_ROOT", "/proc/self", 9),
        ("MICROPOD_ROOT", "/nowhere/" + "a" * 5000, 10),
        ("MICROPOD_ROOT", "odd\x1b[31m\nname\udcff", 0),
        ("MICROPOD_CONFIG", "/dev/null/x", 2),
        ("HOME", "relative", 0),
        ("HOME", "/dev/null", 0),
        ("HOME", "", 0),
        ("TMPDIR", "/nowhere", 0),
        ("TMPDIR", "", 0),
        ("XDG_STATE_HOME", "../..", 0),
    ],
)
def test_hostile_variables_are_refused_or_without_effect(
    name: str, value: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store = {} if name == "MICROPOD_ROOT" else {"MICROPOD_ROOT": str(tmp_path / "store")}
    said = process("gc", extra={"HOME": str(tmp_path), **store, name: value})
    assert said.status == status, said.err
    assert said.err.replace("\n", "").isprintable()
    assert list((tmp_path / "here").iterdir()) == ([tmp_path / "here" / value] if value.startswith("odd") else [])
