"""Text of images, registries and file names on its way to a terminal: nothing of it acts there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.command_line import process
from tests.rootfs.local_images import gzip_layer, put_image
from tests.rootfs.tar_layers import header
from tests.rootfs.unpacking import as_root
from tests.support.faults import on
from tests.support.images import OCI_CONFIG, artifact, image, index
from tests.support.layers import Entry, layer
from tests.support.scripted import Response, oci_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.cli.command_line import CommandLine, Said
    from tests.support.images import Manifest
    from tests.support.scripted import ScriptedRegistry

# A colour, the title of the window, a line of one's own, C1 control characters, and text from right to left.
ACTS = "\x1b[31m\x1b]0;title\x07\r\nforged line\x9b2J\u202egnp\u2066"


def harmless(said: Said) -> bool:
    """Whether nothing that was written acts: lines begin where we began them."""
    text = said.out + said.err
    return all(one.isprintable() or one in "\n\t" for one in text) and "\nforged line" not in text


def hostile_image(platform: str = "linux/amd64") -> Manifest:
    """An image whose every text wants to act, over files whose names do."""
    return image(
        [layer([Entry(f"a{ACTS}", b"1")])],
        platform=platform,
        config={
            "created": ACTS,
            "author": ACTS,
            "config": {"User": ACTS, "Env": [f"A={ACTS}"], "Cmd": [ACTS], "Labels": {ACTS: ACTS}},
            "history": [{"created_by": ACTS, "comment": ACTS}],
        },
        annotations={ACTS: ACTS, "org.opencontainers.image.title": ACTS},
    )


def with_platform(child: Manifest) -> Manifest:
    """An index that names a platform which wants to act."""
    platform = {"os": f"linux{ACTS}", "architecture": ACTS, "variant": ACTS, "os.version": ACTS}
    return index([child], overrides={child.digest: {"platform": platform, "annotations": {ACTS: ACTS}}})


COMMANDS: Sequence[Sequence[str]] = [
    ("images",),
    ("inspect", "REF"),
    ("df",),
    ("verify",),
    ("pod", "create", "REF", "--id=one"),
    ("pod", "create", "REF", "--id=two", "--bundle"),
    ("pod", "ls"),
    ("pod", "inspect", "one"),
    ("pod", "rm", "one"),
    ("unpack", "REF", "DEST"),
    ("rmi", "REF"),
]


@as_root
@pytest.mark.parametrize("extra", [(), ("-v",), ("--json",)], ids=["text", "verbose", "json"])
def test_nothing_that_acts_reaches_the_terminal(
    extra: tuple[str, ...], micropod: CommandLine, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    ref = scripted.serve("some/image", "v1", hostile_image())
    said = [micropod("pull", ref, "--platform=linux/amd64", "--progress=plain", *extra)]
    for command in COMMANDS:
        words = [word.replace("REF", ref).replace("DEST", str(tmp_path / "dest")) for word in command]
        said.append(micropod(*words, *extra))
    assert [one.status for one in said].count(1) == 0
    assert said[0].status == 0
    assert all(map(harmless, said)), next(one for one in said if not harmless(one))
    if extra == ("--json",):
        assert all(json.loads(one.out) for one in said)


@pytest.mark.parametrize("progress", ["plain", "json", "none"])
@pytest.mark.parametrize(
    "top",
    [
        with_platform(hostile_image()),
        artifact(config_type=f"application/{ACTS}"),
        artifact(layer_type=ACTS, config_type=OCI_CONFIG),
        image([layer({})], fields={"mediaType": ACTS}),
        image([layer({})], fields={"layers": [{"digest": ACTS, "size": 1}]}),
        image([layer({})], fields={"config": {ACTS: 1}}),
        image([layer({})], config={"os": ACTS, "architecture": ACTS, "variant": ACTS, "os.version": ACTS}),
        image([layer({})], diff_ids=[ACTS]),
    ],
    ids=["platform", "config type", "layer type", "media type", "digest", "member", "system", "diff ID"],
)
def test_nothing_of_a_refused_document_acts(
    top: Manifest, progress: str, micropod: CommandLine, scripted: ScriptedRegistry
) -> None:
    said = micropod("pull", scripted.serve("some/image", "v1", top), "-v", f"--progress={progress}")
    assert said.status in (0, 7, 8, 12)  # what a manifest says of its own type does not make it another image
    assert harmless(said), said


@pytest.mark.parametrize("words", [("pull",), ("tags",), ("pull", "--json"), ("pull", "--progress=json")])
@pytest.mark.parametrize("status", [401, 403, 404])  # what crane does not try again
def test_nothing_of_a_registrys_error_acts(
    status: int, words: tuple[str, ...], micropod: CommandLine, scripted: ScriptedRegistry
) -> None:
    ref = scripted.serve("some/image", "v1", hostile_image())
    scripted.faults = (on("/(manifests|tags)/", oci_error(status, f"ODD{ACTS}", ACTS, {"Retry-After": "1"})),)
    ref = ref.removesuffix(":v1") if words[0] == "tags" else ref
    said = micropod(*words, ref, "-v")
    assert said.status in (3, 4, 11)
    assert harmless(said), said


def test_nothing_of_a_list_of_tags_acts(micropod: CommandLine, scripted: ScriptedRegistry) -> None:
    ref = scripted.serve("some/image", "v1", hostile_image())
    acts = ACTS.replace("\r\n", "")  # a registry may list what it likes, and each line of crane's is a tag
    body = json.dumps({"name": ACTS, "tags": [acts, f"v1{acts}"]}).encode()
    scripted.faults = (on("/tags/", Response(200, {"Content-Type": "application/json"}, body)),)
    for extra in ((), ("-q",), ("--json",)):
        assert harmless(micropod("tags", ref.removesuffix(":v1"), *extra))


@as_root
def test_nothing_of_a_refused_entry_acts(micropod: CommandLine, tmp_path: Path) -> None:
    hostile = image([gzip_layer([header(f"../{ACTS}".encode())])])
    put_image(micropod.root, hostile, "local/hostile:1")
    said = micropod("unpack", "local/hostile:1", str(tmp_path / "dest"), "--policy=never", "-v")
    assert said.status == 12
    assert harmless(said), said


@pytest.mark.parametrize(
    "words", [("inspect",), ("rmi",), ("pull",), ("pod", "rm"), ("pod", "create"), ("tag", "alpine"), ("unpack",), ()]
)
def test_nothing_of_the_command_line_acts(words: tuple[str, ...], tmp_path: Path) -> None:
    said = process(f"--root={tmp_path / 'store'}", *words, f"a{ACTS}", *(["/x"] if words == ("unpack",) else []))
    assert said.status in (2, 3)
    assert harmless(said), said
