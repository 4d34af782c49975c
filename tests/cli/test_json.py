"""The shape of every JSON document, key by key: scripts rely on it (CONTRACT.md, "JSON")."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import host_platform
from micropod_img.service import ImageService
from tests.cli.command_line import process
from tests.support.images import CREATED, OCI_MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command_line import CommandLine, Json
    from tests.support.images import Manifest

HOST = str(host_platform())


def success(command: str, data: Json) -> dict[str, Json]:
    return {"schema": 1, "command": command, "ok": True, "data": data, "error": None}


def failure(command: str | None, error: Json, data: Json = None) -> dict[str, Json]:
    return {"schema": 1, "command": command, "ok": False, "data": data, "error": error}


def not_here(name: str) -> dict[str, Json]:
    return {
        "code": "image-not-found",
        "message": f"no image here is called {name}",
        "hint": "micropod-img images lists what is here",
        "stage": None,
        "endpoint": None,
        "retryable": False,
        "exit_status": 3,
        "detail": None,
    }


def in_json(ref: str, image: Manifest, index: Manifest, times: dict[str, Json]) -> dict[str, Json]:
    """Return what an image must look like; ``times`` are of this store."""
    assert image.config is not None
    return {
        "ref": ref,
        "digest": image.digest,
        "index_digest": index.digest,
        "media_type": OCI_MANIFEST,
        "platform": HOST,
        "config_digest": image.config.digest,
        "layers": [
            {"digest": layer.digest, "diff_id": layer.diff_id, "media_type": layer.media_type, "size": layer.size}
            for layer in image.layers
        ],
        "size": image.size + sum(blob.size for blob in image.blobs),
        "created": CREATED,
        **times,
    }


def rfc_3339(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text) is not None


@pytest.fixture
def pulled(micropod: CommandLine, ref: str, image_index: Manifest) -> dict[str, Json]:
    """What the image is in JSON, after it was pulled."""
    assert micropod("pull", ref).status == 0
    found = ImageService(micropod.root).get_image(ref)
    assert found.pulled_at is not None
    times: dict[str, Json] = {
        "pulled_at": found.pulled_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "last_used_at": found.last_used_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert all(map(rfc_3339, times.values()))
    return in_json(ref, image_index.children[0], image_index, times)


def test_pull_gives_images_failures_and_bytes(micropod: CommandLine, ref: str, image_index: Manifest) -> None:
    image = image_index.children[0]
    said = micropod("pull", "--json", "--progress=none", ref)
    data = said.document["data"]
    assert isinstance(data, dict)
    assert isinstance(data["images"], list)
    (found,) = data["images"]
    assert isinstance(found, dict)
    times: dict[str, Json] = {key: found[key] for key in ("pulled_at", "last_used_at")}
    assert all(map(rfc_3339, times.values()))
    downloaded = data["downloaded_bytes"]
    assert isinstance(downloaded, int)
    assert downloaded >= sum(layer.size for layer in image.layers)
    assert said.document == success(
        "pull",
        {
            "images": [in_json(ref, image, image_index, times)],
            "failures": [],
            "downloaded_bytes": downloaded,
            "reused_bytes": 0,
        },
    )
    assert said.status == 0
    assert said.err == ""


def test_a_pull_that_fails_has_no_data(micropod: CommandLine) -> None:
    said = micropod("pull", "--policy=never", "--json", "absent")
    error = {
        **not_here(""),
        "message": f"absent:latest is not here for {HOST}, and the policy is never to pull",
        "hint": "micropod-img pull absent:latest",
    }
    assert said.document == failure("pull", error)
    assert said.status == 3


def test_of_several_references_those_that_worked_and_those_that_did_not_are_told(
    micropod: CommandLine, ref: str, pulled: dict[str, Json]
) -> None:
    said = micropod("pull", "--policy=never", "--json", "UPPER", ref, "absent")
    document = said.document
    data = document["data"]
    assert isinstance(data, dict)
    failures = data["failures"]
    assert isinstance(failures, list)
    assert [one["ref"] for one in failures if isinstance(one, dict)] == ["UPPER", "absent"]
    first = failures[0]
    assert isinstance(first, dict)
    assert first == {"ref": "UPPER", "error": document["error"]}
    assert isinstance(data["images"], list)
    assert [one["digest"] for one in data["images"] if isinstance(one, dict)] == [pulled["digest"]]
    assert document["ok"] is False
    assert said.status == 2


def test_images_gives_images(micropod: CommandLine, pulled: dict[str, Json]) -> None:
    assert micropod("--json", "images").document == success("images", {"images": [pulled]})


def test_images_of_an_empty_store_are_none(micropod: CommandLine) -> None:
    assert micropod("images", "--json").document == success("images", {"images": []})


def test_inspect_gives_an_image(micropod: CommandLine, ref: str, pulled: dict[str, Json]) -> None:
    assert micropod("inspect", ref, "--json").document == success("inspect", {"image": pulled})


def test_tag_gives_what_was_written_and_the_new_reference(micropod: CommandLine, pulled: dict[str, Json]) -> None:
    source = str(pulled["digest"])
    assert micropod("tag", source, "app", "--json").document == success(
        "tag", {"source": source, "ref": "docker.io/library/app:latest"}
    )


def test_rmi_gives_names_and_bytes(micropod: CommandLine, ref: str, pulled: dict[str, Json]) -> None:
    usage = ImageService(micropod.root).disk_usage()
    assert micropod("rmi", ref, "--json").document == success(
        "rmi", {"removed": [ref, pulled["digest"]], "freed_bytes": usage.image_bytes}
    )


def test_gc_gives_names_and_bytes(micropod: CommandLine, pulled: dict[str, Json]) -> None:
    assert pulled
    assert micropod("gc", "--json").document == success("gc", {"removed": [], "freed_bytes": 0})


def test_df_gives_bytes_of_images_and_of_the_store(
    micropod: CommandLine, ref: str, image_index: Manifest, pulled: dict[str, Json]
) -> None:
    assert micropod("tag", ref, "app").status == 0
    size = pulled["size"]
    assert isinstance(size, int)
    assert micropod("df", "--json").document == success(
        "df",
        {
            "images": [
                {"ref": name, "digest": pulled["digest"], "platform": HOST, "shared_bytes": 0, "own_bytes": size}
                for name in (ref, "docker.io/library/app:latest")
            ],
            "image_bytes": size + image_index.size,
            "unreferenced_bytes": 0,
            "staging_bytes": 0,
        },
    )


def test_version_gives_the_programs(micropod: CommandLine, crane: Path) -> None:
    tools = ImageService(micropod.root).tool_versions()
    assert str(crane) in {tool.path for tool in tools}
    document = micropod("version", "--json").document
    data = document["data"]
    assert isinstance(data, dict)
    listed: list[Json] = [{"name": tool.name, "version": tool.version, "path": tool.path} for tool in tools]
    assert document == success("version", {"version": data["version"], "tools": listed})
    assert isinstance(data["version"], str)


def test_doctor_gives_its_findings(micropod: CommandLine, crane: Path) -> None:
    assert crane
    document = micropod("doctor", "--json").document
    data = document["data"]
    assert isinstance(data, dict)
    assert document == success("doctor", {"findings": data["findings"]})
    findings = data["findings"]
    assert isinstance(findings, list)
    subjects = []
    for one in findings:
        assert isinstance(one, dict)
        assert set(one) == {"subject", "state", "message", "hint", "code", "exit_status", "facts"}
        assert (one["state"], one["code"], one["exit_status"]) in {("ok", None, 0), ("warning", None, 0)}
        subjects.append(one["subject"])
    assert subjects == [
        *("kernel", "setpriv", "clock", "configuration", "registries.conf", "credentials", "authorities", "proxies"),
        *("crane", "umoci", "store", "filesystem", "space", "user-namespaces", "subordinate-ids"),
        *("overlay", "fuse-overlayfs", "driver"),
    ]


def test_doctor_fails_with_what_commands_would_fail_with(micropod: CommandLine) -> None:
    (micropod.root / "version").write_text("99\n")
    said = micropod("doctor", "--json")
    error = said.document["error"]
    assert isinstance(error, dict)
    assert (said.status, said.document["ok"], error["code"], error["exit_status"]) == (8, False, "store-format", 8)
    data = said.document["data"]
    assert isinstance(data, dict)
    assert data["findings"]


def test_selftest_gives_its_steps(crane: Path) -> None:
    assert crane
    document = process("selftest", "--json").document  # not in here: an ordinary user's enters a user namespace
    data = document["data"]
    assert isinstance(data, dict)
    assert document == success("selftest", {"steps": data["steps"], "failed": None})
    steps = data["steps"]
    assert isinstance(steps, list)
    assert steps
    for step in steps:
        assert isinstance(step, dict)
        assert set(step) == {"name", "seconds", "skipped"}


@pytest.mark.parametrize(
    ("arguments", "command", "message", "hint"),
    [
        (["pull", "--bogus"], "pull", "no such option: --bogus", "see micropod-img pull --help"),
        (["pull"], "pull", "missing argument REF", "see micropod-img pull --help"),
        (["pull", "x", "--platform"], "pull", "option '--platform' requires an argument", None),
        (["inspect", "a", "b"], "inspect", "got unexpected extra argument", None),
        (["--bogus"], None, "no such option: --bogus", "see micropod-img --help"),
        (["plul"], None, "there is no command 'plul'", "did you mean pull?"),
        ([], None, "no command was given", None),
        (["pull", "x", "--jobs", "0"], "pull", "--jobs: '0' is not a number above 0", "write --jobs 4"),
    ],
)
def test_a_command_line_that_is_wrong_is_said_in_json_too(
    micropod: CommandLine, arguments: list[str], command: str | None, message: str, hint: str | None
) -> None:
    said = micropod.bare("--json", *arguments)
    error = said.document["error"]
    assert isinstance(error, dict)
    assert said.document == failure(command, error)
    assert str(error["message"]).startswith(message)
    assert error["code"] == "usage"
    assert said.status == error["exit_status"] == 2
    if hint is not None:
        assert error["hint"] == hint


def test_json_is_heeded_behind_what_cannot_be_parsed(micropod: CommandLine) -> None:
    assert micropod.bare("pull", "--bogus", "--json").document["ok"] is False
    assert micropod.bare("plul", "--json").document["ok"] is False


def test_an_error_has_these_members(micropod: CommandLine) -> None:
    assert micropod("inspect", "absent", "--json").document == failure("inspect", not_here("absent"))


def test_a_bug_is_one_document_too(micropod: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_service: ImageService) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ImageService, "disk_usage", broken)
    document = micropod("df", "--json").document
    error = document["error"]
    assert isinstance(error, dict)
    assert document == failure("df", error)
    assert error["code"] == "internal"
    assert error["exit_status"] == 1
    assert "ZeroDivisionError" in str(error["detail"])


def test_stdout_of_a_process_is_one_document_and_nothing_else(store_root: Path) -> None:
    said = process("--root", store_root, "images", "--json", "-v")
    assert json.loads(said.out) == success("images", {"images": []})
    assert said.out.endswith("}\n")
    assert said.err == ""
