"""A bundle's process is who and what podman makes of the same image; where it is not, it is said why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from tests.rootfs.local_images import LocalService
from tests.rootfs.runnable_images import runnable
from tests.rootfs.unpacking import as_root
from tests.support.podman import Podman, members, podman, texts
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.podman import Json
    from tests.support.registries import Registry

pytestmark = [as_root, pytest.mark.slow]

SHELL = ["/bin/sh", "-c"]
IMAGES: dict[str, tuple[dict[str, object], Sequence[str] | None]] = {
    "command": ({}, None),
    "entrypoint and command": ({"Entrypoint": SHELL, "Cmd": ["id"]}, None),
    "entrypoint": ({"Entrypoint": ["/bin/id"], "Cmd": None}, None),
    "arguments instead of the command": ({"Cmd": ["/bin/env"]}, ["/bin/id", "-u"]),
    "arguments after the entrypoint": ({"Entrypoint": SHELL, "Cmd": ["id"]}, ["env"]),
    "a working directory that is not there": ({"WorkingDir": "/made/up"}, None),
    "environment": ({"Env": ["PATH=/bin", "EMPTY=", "TWICE=1", "TWICE=2", "SIGN=a=b"]}, None),
    "no path": ({"Env": ["A=1"]}, None),
    "a home in the environment": ({"Env": ["PATH=/bin", "HOME=/data"], "User": "app"}, None),
}
USERS = ("root", "app", "1000", "4711", "app:disk", "app:6", "1000:disk", "4711:4712", "0:disk", "root:4712")
UNKNOWN = ("nobody", "app:nobody", "nobody:app", "-1")
CASES = IMAGES | {f"user {user}": ({"User": user}, None) for user in (*USERS, *UNKNOWN)}

PODMANS_OWN = {"TERM", "container", "HOSTNAME"}
"""Variables of a container of podman; those of a bundle are the image's, and a terminal's if there is one."""


@pytest.fixture(scope="module")
def debians(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman"), "overlay") as running:
        yield running


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    made = LocalService(store_root)
    yield made
    made.end()


@pytest.fixture
def theirs(
    case: str, debians: Podman, crane_registry: Registry, repository: str, busybox: bytes
) -> dict[str, Json] | None:
    """Return what podman would tell a runtime of a case; None if it refuses."""
    config, args = CASES[case]
    return debians.runtime_configuration(push(crane_registry, repository, "1", runnable(busybox, **config)), args or ())


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_runs_what_podman_would(
    case: str, theirs: dict[str, Json] | None, service: LocalService, busybox: bytes
) -> None:
    config, args = CASES[case]
    ref = service.put(runnable(busybox, **config))
    if theirs is None:
        with pytest.raises(MicropodError):
            service.create_pod(ref, bundle=True, args=args, policy="never")
        assert service.list_pods() == []
        return
    bundle = service.create_pod(ref, bundle=True, args=args, policy="never").bundle
    assert bundle is not None
    ours = members(json.loads((bundle / "config.json").read_bytes()))
    assert _process(ours) == _process(theirs)
    assert _hidden(theirs) <= _hidden(ours)
    assert _read_only(theirs) <= _read_only(ours) | _hidden(ours)


@pytest.mark.parametrize("case", [f"user {user}" for user in UNKNOWN])
def test_podman_refuses_whom_the_image_does_not_know(theirs: dict[str, Json] | None) -> None:
    assert theirs is None


def _process(configuration: dict[str, Json]) -> dict[str, object]:
    """Return what counts of a process: who it is, what it runs, where, with what, and with which rights."""
    process = members(configuration["process"])
    user = members(process["user"])
    groups = user.get("additionalGids") or []
    assert isinstance(groups, list)
    # Where nobody says a home, and the image does not know the user, runtimes add this one by themselves.
    variables = {"HOME": "/", **dict(text.split("=", 1) for text in texts(process["env"]))}
    held = members(process["capabilities"])
    return {
        "user": (user["uid"], user["gid"]),
        "groups": {*groups} | {user["gid"]},  # podman does not repeat the process's own
        "args": process["args"],
        "cwd": process["cwd"],
        "env": {name: value for name, value in variables.items() if name not in PODMANS_OWN},
        "terminal": process.get("terminal", False),
        "noNewPrivileges": process.get("noNewPrivileges", False),
        "capabilities": {kind: sorted(texts(held[kind])) for kind in held if held[kind]},
    }


def _hidden(configuration: dict[str, Json]) -> set[str]:
    return set(texts(members(configuration["linux"])["maskedPaths"]))


def _read_only(configuration: dict[str, Json]) -> set[str]:
    return set(texts(members(configuration["linux"])["readonlyPaths"]))
