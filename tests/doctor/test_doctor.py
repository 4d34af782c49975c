"""What `diagnose` finds, where all is well and where something is broken that really is."""

from __future__ import annotations

import json
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pytest

from micropod_img import diagnose
from micropod_img.doctor import machine
from tests.rootfs.local_images import LocalService
from tests.rootfs.unpacking import as_root
from tests.support.layers import Entry
from tests.support.mounts import run_with_mounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.diagnosis import Diagnosis, Finding

Damage: TypeAlias = "Callable[[Path], object]"

TELL = """
import json, sys
from micropod_img import diagnose
print(json.dumps([[one.subject, one.state, one.message, 0 if one.error is None else one.error.exit_status]
                  for one in diagnose(sys.argv[1]).findings]))
"""
VARIABLES = (
    *("MICROPOD_CONFIG", "MICROPOD_ROOT", "MICROPOD_TOOLS_DIR", "MICROPOD_AUTH_FILE", "REGISTRY_AUTH_FILE"),
    *("CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(home / name))
    (home / "registries.conf").touch()
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(home / "registries.conf"))


@pytest.fixture
def service(tmp_path: Path, crane: Path) -> LocalService:
    """A store with an image in it."""
    assert crane
    made = LocalService(tmp_path / "store")
    made.put_layers([Entry("a", b"1")], ref="example.com/app:1")
    return made


def finding(diagnosis: Diagnosis, subject: str) -> Finding:
    found = [one for one in diagnosis.findings if one.subject == subject]
    assert len(found) == 1, diagnosis
    return found[0]


@as_root
def test_where_all_is_well_nothing_is_made_and_nothing_is_left(tmp_path: Path, crane: Path) -> None:
    assert crane
    before = sorted(tmp_path.rglob("*"))
    diagnosis = diagnose(tmp_path / "not/there/yet")
    assert diagnosis.problems == ()
    assert finding(diagnosis, "driver").facts["driver"] == "overlay"
    assert "is not there yet" in finding(diagnosis, "store").message
    assert sorted(tmp_path.rglob("*")) == before


@as_root
def test_a_store_is_counted_and_stays_as_it_is(service: LocalService) -> None:
    service.create_pod("example.com/app:1", pod_id="one", policy="never")
    before = sorted(service.root.rglob("*"))
    diagnosis = diagnose(service.root)
    assert diagnosis.problems == ()
    facts = finding(diagnosis, "store").facts
    assert (facts["images"], facts["snapshots"], facts["pods"], facts["format"]) == (1, 1, 1, 1)
    assert finding(diagnosis, "driver").facts["recorded"] == "overlay"
    assert sorted(service.root.rglob("*")) == before
    service.end()


def tear_a_layer(root: Path) -> None:
    for blob in (root / "images/blobs/sha256").iterdir():
        blob.write_bytes(b"torn")


def tear_a_pod(root: Path) -> None:
    (root / "pods/x").mkdir(parents=True)
    (root / "pods/x/pod.json").write_text("{")


BROKEN_STORES: dict[str, tuple[Damage, int, str]] = {
    "a newer format": (lambda root: Path(root / "version").write_text("99\n"), 8, "store-format"),
    "a torn version": (lambda root: Path(root / "version").write_text(""), 7, "corrupt-version"),
    "no index": (lambda root: Path(root / "images/index.json").unlink(), 7, "missing-index"),
    "a torn index": (lambda root: Path(root / "images/index.json").write_text("{"), 7, "corrupt-index"),
    "torn blobs": (tear_a_layer, 7, "corrupt-blob"),
    "somebody else's": (lambda root: shutil.chown(root, 4711), 10, "foreign-store"),
    "an unreadable pod": (tear_a_pod, 7, "corrupt-pod"),
}


@as_root
@pytest.mark.parametrize(("damage", "status", "code"), BROKEN_STORES.values(), ids=BROKEN_STORES.keys())
def test_a_store_that_no_command_can_use_is_a_problem_with_their_status(
    damage: Damage, status: int, code: str, service: LocalService
) -> None:
    damage(service.root)
    diagnosis = diagnose(service.root)
    assert [one.subject for one in diagnosis.problems] == ["store"]
    error = diagnosis.problems[0].error
    assert error is not None
    assert (error.exit_status, error.code) == (status, code)
    assert diagnosis.problems[0].hint


def test_a_directory_that_is_no_store_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").touch()
    diagnosis = diagnose(tmp_path / "mine")
    error = finding(diagnosis, "store").error
    assert error is not None
    assert error.code == "not-a-store"
    assert finding(diagnosis, "driver").state == "warning"


def altered(directory: Path) -> dict[str, str]:
    (directory / "tools").mkdir()
    for name in ("crane", "umoci"):
        (directory / "tools" / name).write_text("#!/bin/sh\n")
    return {"MICROPOD_TOOLS_DIR": str(directory / "tools")}


def written(directory: Path, name: str, content: str, mode: int = 0o600) -> str:
    path = directory / name
    path.write_text(content)
    path.chmod(mode)
    return str(path)


AUTHS = '{"auths": {"example.com": {"auth": "dTpw"}}}'


class Setting(NamedTuple):
    """Variables that are made for a directory, and what is said of them where."""

    variables: Callable[[Path], dict[str, str]]
    subject: str
    status: int
    message: str


SETTINGS = {
    "altered tools": Setting(altered, "crane", 11, "is not the crane"),
    "a broken configuration": Setting(
        lambda d: {"MICROPOD_CONFIG": written(d, "c.toml", "jobs = ")},
        "configuration",
        2,
        "c.toml",
    ),
    "a configuration that is missing": Setting(
        lambda d: {"MICROPOD_CONFIG": str(d / "absent")},
        "configuration",
        2,
        "there is no such file",
    ),
    "a broken registries.conf": Setting(
        lambda d: {"CONTAINERS_REGISTRIES_CONF": written(d, "r.conf", "[[registry]]\n")},
        "registries.conf",
        2,
        "r.conf",
    ),
    "a key in registries.conf that nobody knows": Setting(
        lambda d: {"CONTAINERS_REGISTRIES_CONF": written(d, "r.conf", "nonsense = 1\n")},
        "registries.conf",
        0,
        "unknown key nonsense",
    ),
    "broken credentials": Setting(
        lambda d: {"REGISTRY_AUTH_FILE": written(d, "auth.json", "{")},
        "credentials",
        4,
        "auth.json: the auth file is broken",
    ),
    "credentials that are missing": Setting(
        lambda d: {"REGISTRY_AUTH_FILE": str(d / "absent")},
        "credentials",
        4,
        "there is no such auth file",
    ),
    "credentials for everybody": Setting(
        lambda d: {"REGISTRY_AUTH_FILE": written(d, "auth.json", AUTHS, 0o644)},
        "credentials",
        0,
        "auth.json can be read by others",
    ),
    "a helper that is missing": Setting(
        lambda d: {"REGISTRY_AUTH_FILE": written(d, "auth.json", '{"credsStore": "nowhere"}')},
        "credentials",
        0,
        "names docker-credential-nowhere, and there is no such program",
    ),
    "authorities that are missing": Setting(
        lambda d: {"SSL_CERT_FILE": str(d / "absent")},
        "authorities",
        0,
        "absent is missing",
    ),
    "no proxy": Setting(lambda _: {"HTTPS_PROXY": "http://u:secret@"}, "proxies", 0, "…@ is no proxy"),
    "a proxy for plain HTTP only": Setting(lambda _: {"http_proxy": "http://p:1"}, "proxies", 0, "for plain HTTP only"),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_settings_that_are_broken_are_named(
    setting: Setting, tmp_path: Path, crane: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crane
    for name, value in setting.variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    found = finding(diagnose(tmp_path / "store"), setting.subject)
    assert found.state == ("problem" if setting.status else "warning")
    assert (0 if found.error is None else found.error.exit_status) == setting.status
    assert setting.message in found.message
    assert found.hint
    assert "secret" not in str(found)


def test_settings_that_are_well_are_named_without_their_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", written(tmp_path, "auth.json", AUTHS))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    monkeypatch.setenv("MICROPOD_CONFIG", written(tmp_path, "c.toml", "jobs = 2\n"))
    diagnosis = diagnose(tmp_path / "store")
    assert finding(diagnosis, "credentials").message == f"{tmp_path}/auth.json: 1 in the file"
    assert finding(diagnosis, "configuration").facts["files"] == (f"{tmp_path}/c.toml",)
    assert finding(diagnosis, "proxies").message == "HTTPS_PROXY=http://…@proxy:3128"
    assert "secret" not in str(diagnosis)


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://p:3128", "http://p:3128"),
        ("http://u:secret@p:3128", "http://…@p:3128"),
        ("http://u:sec@ret@p", "http://…@p"),
        ("http://u:sec/ret@p", "http://…@p"),
        ("u:secret@p:3128", "…@p:3128"),
    ],
)
def test_no_password_of_a_proxy_is_shown(
    proxy: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    found = finding(diagnose(tmp_path / "store"), "proxies")
    assert found.facts == {"https_proxy": shown}
    assert shown in found.message


@pytest.mark.parametrize(("year", "state"), [(1970, "warning"), (2024, "warning"), (2026, "ok"), (2106, "warning")])
def test_a_clock_that_cannot_be_right_is_said(year: int, state: str) -> None:
    assert machine.clock(datetime(year, 6, 1, tzinfo=UTC)).state == state


MOUNTS: dict[str, tuple[str, list[object]]] = {
    "read-only": ("-t tmpfs -o ro none {place}", ["filesystem", "problem", 10]),
    "noexec": ("-t tmpfs -o noexec none {place}", ["filesystem", "problem", 11]),
    "in memory": ("-t tmpfs none {place}", ["filesystem", "warning", 0]),
    "without extended attributes": ("-t ramfs none {place}", ["attributes", "warning", 0]),
    "that tells nothing of its space": ("-t ramfs none {place}", ["space", "ok", 0]),
    "small": ("-t tmpfs -o size=100m none {place}", ["space", "warning", 0]),
    "full": ("-t tmpfs -o size=1m none {place}", ["space", "problem", 10]),
    "without inodes": ("-t tmpfs -o nr_inodes=50 none {place}", ["space", "problem", 10]),
    "of images alone": ("-t tmpfs none {place}/store/images", ["one-filesystem", "problem", 10]),
    "bound to itself": ("--bind {place}/store/tmp {place}/store/tmp", ["one-filesystem", "problem", 10]),
}


@as_root
@pytest.mark.parametrize(("mount", "expected"), MOUNTS.values(), ids=MOUNTS.keys())
def test_a_filesystem_that_is_wrong_for_a_store_is_said(
    mount: str, expected: list[object], service: LocalService, tmp_path: Path
) -> None:
    place = shlex.quote(str(tmp_path))
    done = run_with_mounts(TELL, service.root, mounts=[mount.format(place=place)])
    assert done.returncode == 0, done.stderr
    assert expected in [[subject, state, status] for subject, state, _, status in json.loads(done.stdout)]
