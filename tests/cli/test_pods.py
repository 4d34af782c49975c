"""``unpack``, ``mount``, ``umount`` and ``pod``, with the shape of their JSON (CONTRACT.md, "JSON")."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from micropod_img.service import ImageService
from tests.cli.command_line import process
from tests.rootfs.unpacking import as_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.command_line import CommandLine, Json, Said

pytestmark = as_root


@pytest.fixture(autouse=True)
def _no_pods_are_left(store_root: Path) -> Iterator[None]:
    yield
    service = ImageService(store_root)
    for pod in service.list_pods():
        service.remove_pod(pod.id)


def data(said: Said) -> dict[str, Json]:
    assert (said.status, said.document["ok"], said.document["error"]) == (0, True, None), said.err
    found = said.document["data"]
    assert isinstance(found, dict)
    return found


def pod_in_json(root: Path, ref: str, pod_id: str, *, mounted: bool = True, bundle: bool = False) -> dict[str, Json]:
    image = ImageService(root).get_image(ref)
    created = ImageService(root).get_pod(pod_id).created_at
    return {
        "id": pod_id,
        "ref": ref,
        "image_digest": image.digest,
        "rootfs": f"{root}/pods/{pod_id}/rootfs",
        "bundle": f"{root}/pods/{pod_id}" if bundle else None,
        "driver": "overlay",
        "mounted": mounted,
        "read_only": False,
        "namespace_pid": None,
        "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
    }


def test_a_pod_is_pulled_made_listed_and_removed(micropod: CommandLine, ref: str, store_root: Path) -> None:
    made = micropod("pod", "create", ref, "--id", "one", "--json")
    assert made.document["command"] == "pod create"
    expected = pod_in_json(store_root, ref, "one")
    assert data(made) == {"pod": expected}
    assert (store_root / "pods/one/rootfs/bin/app").exists()
    assert data(micropod("pod", "ls", "--json")) == {"pods": [expected]}
    assert data(micropod("--json", "pod", "inspect", "one")) == {"pod": expected}
    unmounted = pod_in_json(store_root, ref, "one", mounted=False)
    assert data(micropod("pod", "--json", "umount", "one")) == {"pod": unmounted}
    assert data(micropod("pod", "mount", "one", "--json")) == {"pod": expected}
    assert data(micropod("pod", "rm", "one", "--json")) == {"removed": ["one"], "failures": []}
    assert data(micropod("pod", "ls", "--json")) == {"pods": []}


def test_people_get_the_path_and_scripts_the_id(micropod: CommandLine, ref: str, store_root: Path) -> None:
    assert micropod("pod", "create", ref, "--id=one").out == f"{store_root}/pods/one/rootfs\n"
    quiet = micropod("pod", "create", ref, "-q").out
    assert re.fullmatch(r"[0-9a-f]{12}\n", quiet)
    assert micropod("pod", "ls", "-q").out == f"one\n{quiet}"
    table = micropod("pod", "ls").out.splitlines()
    assert table[0].split() == ["ID", "IMAGE", "MOUNTED", "AGE", "ROOTFS"]
    assert table[1].split()[:3] == ["one", ref, "yes"]
    assert "overlay" in micropod("pod", "inspect", "one").out
    assert micropod("pod", "rm", "one", quiet.strip()).out == f"one\n{quiet}"


def test_a_bundle_runs_what_args_say(micropod: CommandLine, ref: str, store_root: Path) -> None:
    made = data(micropod("pod", "create", ref, "--id=b", "--bundle", "--args", "/bin/app 'two words'", "--json"))
    assert made == {"pod": pod_in_json(store_root, ref, "b", bundle=True)}
    assert '"two words"' in (store_root / "pods/b/config.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["inspect", "nobody"], 3, "pod-not-found"),
        (["rm", "nobody"], 3, "pod-not-found"),
        (["rm", "a/b"], 2, "invalid-pod-id"),
        (["create", "REF", "--policy=never"], 3, "image-not-found"),
        (["create", "REF", "--id=a..b"], 2, "invalid-pod-id"),
        (["create", "REF", "--args", "'"], 2, "usage"),
        (["create", "REF", "--args", "/bin/app"], 2, "usage"),
    ],
)
def test_failures_have_their_status_and_code(
    arguments: list[str], status: int, code: str, micropod: CommandLine, ref: str
) -> None:
    said = micropod("pod", *(ref if one == "REF" else one for one in arguments), "--json")
    error = said.document["error"]
    assert isinstance(error, dict)
    assert (said.status, error["code"], said.document["data"]) == (status, code, None)


def test_what_can_be_removed_is_removed_and_the_rest_said(micropod: CommandLine, ref: str) -> None:
    micropod("pod", "create", ref, "--id=one")
    said = micropod("pod", "rm", "nobody", "one", "--json")
    assert said.status == 3
    document = said.document["data"]
    assert isinstance(document, dict)
    assert document["removed"] == ["one"]
    failures = document["failures"]
    assert isinstance(failures, list)
    assert [failure["id"] for failure in failures if isinstance(failure, dict)] == ["nobody"]


def test_an_image_in_use_is_not_removed(micropod: CommandLine, ref: str) -> None:
    micropod("pod", "create", ref, "--id=one")
    said = micropod("rmi", ref)
    assert said.status == 9
    assert "pod one" in said.err
    assert "--force" in said.err
    assert micropod("rmi", ref, "--force").status == 0


def test_an_image_is_unpacked(micropod: CommandLine, ref: str, tmp_path: Path) -> None:
    said = micropod("unpack", ref, str(tmp_path / "dest"), "--json")
    assert data(said) == {"rootfs": str(tmp_path / "dest")}
    assert (tmp_path / "dest/bin/app").exists()
    again = micropod("unpack", ref, str(tmp_path / "dest"))
    assert again.status == 9
    assert micropod("unpack", ref, str(tmp_path / "other")).out == f"{tmp_path}/other\n"


def test_an_image_is_mounted_and_unmounted(micropod: CommandLine, ref: str, tmp_path: Path) -> None:
    target = tmp_path / "seen"
    target.mkdir()
    assert data(micropod("mount", ref, str(target), "--json")) == {"rootfs": str(target)}
    try:
        assert (target / "bin/app").exists()
        assert micropod("mount", ref, str(target)).status == 9
    finally:
        unmounted = micropod("umount", str(target), "--json")
    assert data(unmounted) == {"rootfs": str(target)}
    assert micropod("umount", str(target)).status == 3


def test_a_bundles_process_has_a_terminal_only_if_that_is_asked_for(
    micropod: CommandLine, ref: str, store_root: Path
) -> None:
    for pod_id, options in (("without", []), ("with", ["--tty"])):
        micropod("pod", "create", "--bundle", "--id", pod_id, "--args", "/bin/app", *options, ref)
        config = json.loads((store_root / "pods" / pod_id / "config.json").read_bytes())
        assert config["process"]["terminal"] is bool(options)


def test_a_terminal_without_a_bundle_is_a_wrong_command_line(micropod: CommandLine, ref: str) -> None:
    said = micropod("pod", "create", "-t", ref)
    assert said.status == 2
    assert "add --bundle" in said.err


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("pod inspect ", ["db", "web-1", "web-2"]),
        ("pod umount web", ["web-1", "web-2"]),
        ("pod rm web-1 ", ["db", "web-2"]),
        ("pod mount nothing", []),
    ],
)
def test_a_shell_is_offered_pods(
    words: str, offered: list[str], micropod: CommandLine, ref: str, store_root: Path
) -> None:
    for pod_id in ("web-1", "web-2", "db"):
        micropod("pod", "create", "-q", "--id", pod_id, ref)
    line = f"micropod-img --root {store_root} {words}"
    last = len(line.split(" ")) - 1
    extra = {"_MICROPOD_IMG_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(last)}
    assert process(extra=extra).out.split() == offered
