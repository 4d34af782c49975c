"""What the commands say to people, and with ``-q``; their JSON is test_json.py's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import host_platform
from micropod_img.store.layout import StoreLayout
from tests.support.images import image
from tests.support.layers import layer
from tests.support.push import push

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command_line import CommandLine
    from tests.support.images import Manifest
    from tests.support.registries import Registry

HOST = str(host_platform())


@pytest.fixture
def digest(micropod: CommandLine, ref: str) -> str:
    """The image, pulled; its digest."""
    said = micropod("pull", "-q", ref)
    assert said.status == 0
    return said.out.strip()


def test_pull_says_what_it_did(micropod: CommandLine, ref: str, image_index: Manifest) -> None:
    short = image_index.children[0].digest[7:19]
    said = micropod("pull", ref)
    assert said.status == 0
    assert re.fullmatch(
        rf"{re.escape(ref)}: pulled, [\d.]+ (B|KiB) downloaded(, [\d.]+ (B|KiB) reused)? "
        rf"\({HOST}, {short}\)\n",
        said.out,
    )
    again = micropod("pull", ref)
    assert again.out.startswith(f"{ref}: here already ({HOST}, ")
    assert again.err == ""


def test_pull_says_just_the_digest_when_quiet(micropod: CommandLine, ref: str, image_index: Manifest) -> None:
    said = micropod("pull", "-q", ref)
    assert (said.status, said.out, said.err) == (0, f"{image_index.children[0].digest}\n", "")


def test_pull_passes_its_options_on(
    micropod: CommandLine, ref: str, image_index: Manifest, other_platform: str
) -> None:
    assert micropod("pull", "-q", ref, "--platform", other_platform).out.strip() == image_index.children[1].digest
    assert micropod("pull", "--policy=never", ref).status == 3
    assert micropod("pull", "--all-platforms", "--timeout=1m", "--stall-timeout=30s", "--jobs=1", ref).status == 0
    assert len(micropod("images", "-q").out.split()) == 2
    assert micropod("pull", "--all-platforms", "--platform", other_platform, ref).status == 2


def test_pull_tells_of_several_in_the_order_given_and_loses_none_to_a_failure(
    micropod: CommandLine, crane_registry: Registry, repository: str, ref: str
) -> None:
    second = push(crane_registry, f"{repository}-b", "v1", image([layer({"b": b"b"})], platform=HOST))
    absent = crane_registry.reference("nobody/has", "this")
    said = micropod("pull", absent, second, "UPPER", ref)
    assert said.status == 3
    assert [line.partition(": ")[0] for line in said.out.splitlines()] == [second, ref]
    failures = [line for line in said.err.splitlines() if line.startswith("micropod-img: ")]
    assert len(failures) == 2
    assert "nobody/has" in failures[0]
    assert "UPPER" in failures[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy=sometimes"], "--policy: there is no 'sometimes'"),
        (["--progress=loud"], "--progress: there is no 'loud'"),
        (["--timeout=soon"], "--timeout: 'soon' is not a duration"),
        (["--stall-timeout=0"], "--stall-timeout: '0' is not a duration"),
        (["--jobs=-1"], "--jobs: '-1' is not a number above 0"),
        (["--platform=moon"], "'moon' is no operating system or architecture"),
    ],
)
def test_pull_refuses_options_that_mean_nothing(micropod: CommandLine, options: list[str], message: str) -> None:
    said = micropod("pull", "alpine", *options)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"micropod-img: {message}")


def test_images_is_a_table(micropod: CommandLine, ref: str, digest: str) -> None:
    header, row = micropod("images").out.splitlines()
    assert header.split() == ["REFERENCE", "PLATFORM", "SIZE", "AGE", "DIGEST"]
    assert re.fullmatch(rf"{re.escape(ref)}  {HOST}  [\d.]+ (B|KiB)  \d+ (years|months)  {digest[7:19]}", row)


def test_images_shows_whole_digests_if_asked(micropod: CommandLine, digest: str) -> None:
    assert micropod("images", "--digests").out.rstrip().endswith(f"  {digest}")


def test_images_shortens_nothing_if_asked(micropod: CommandLine, ref: str, digest: str) -> None:
    micropod("tag", ref, "app")
    header, row, _ = micropod("images", "--no-trunc").out.splitlines()
    assert header.split()[3] == "CREATED"
    assert row.split() == [ref, HOST, *row.split()[2:4], "2024-02-29T12:00:00Z", digest]
    assert micropod("images", "--no-trunc", "app").out.splitlines()[1].startswith("docker.io/library/app:latest  ")


def test_images_says_each_digest_once_when_quiet(micropod: CommandLine, ref: str, digest: str) -> None:
    micropod("tag", ref, "app")
    assert micropod("images", "-q").out == f"{digest}\n"


def test_images_shows_what_its_filters_fit(micropod: CommandLine, ref: str, digest: str) -> None:
    micropod("tag", ref, "app:1")
    micropod("tag", ref, "app:2")
    assert digest
    assert [line.split()[0] for line in micropod("images", "app").out.splitlines()[1:]] == ["app:1", "app:2"]
    assert [line.split()[0] for line in micropod("images", "*:2", "nothing").out.splitlines()[1:]] == ["app:2"]
    assert len(micropod("images", "nothing").out.splitlines()) == 1


def test_images_shows_what_is_whole_and_complains_of_the_rest(
    micropod: CommandLine, crane_registry: Registry, repository: str, ref: str, digest: str
) -> None:
    other = image([layer({"b": b"b"})], platform=HOST)
    second = push(crane_registry, f"{repository}-b", "v1", other)
    assert micropod("pull", second).status == 0
    StoreLayout(micropod.root).blob(other.layers[0].digest).unlink()
    said = micropod("images")
    assert said.status == 7
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == [ref]
    assert second in said.err
    assert "is missing" in said.err
    quiet = micropod("images", "-q")
    assert (quiet.status, quiet.out) == (7, f"{digest}\n")
    in_json = micropod("images", "--json")
    assert in_json.document["ok"] is False
    assert isinstance(in_json.document["data"], dict)


def test_an_image_without_a_name_is_shown_as_none(micropod: CommandLine, ref: str, digest: str) -> None:
    index = StoreLayout(micropod.root).index
    index.write_text(re.sub(r'"annotations": \{[^}]*\}', '"annotations": {}', index.read_text()))
    assert ref not in index.read_text()
    assert micropod("images").out.splitlines()[1].startswith("<none>  ")
    assert micropod("df").out.splitlines()[1].startswith("<none>  ")
    assert micropod("inspect", digest).out.startswith("Reference   <none>\n")


def test_inspect_shows_all_about_an_image(micropod: CommandLine, ref: str, digest: str, image_index: Manifest) -> None:
    shown = micropod("inspect", ref).out
    assert re.search(rf"^Digest +{digest}$", shown, re.MULTILINE)
    assert re.search(rf"^Index +{image_index.digest}$", shown, re.MULTILINE)
    assert re.search(r"^Created +2024-02-29T12:00:00Z \(\d+ .* ago\)$", shown, re.MULTILINE)
    for one in image_index.children[0].layers:
        assert one.digest in shown
    assert micropod("inspect", digest[7:19]).out == shown


def test_inspect_says_just_the_digest_when_quiet(micropod: CommandLine, ref: str, digest: str) -> None:
    assert micropod("inspect", "-q", ref).out == f"{digest}\n"


def test_inspect_takes_the_image_for_a_platform(
    micropod: CommandLine, ref: str, image_index: Manifest, other_platform: str
) -> None:
    assert micropod("pull", "--all-platforms", ref).status == 0
    said = micropod("inspect", "-q", "--platform", other_platform, ref)
    assert said.out.strip() == image_index.children[1].digest


def test_tag_gives_a_second_name(micropod: CommandLine, ref: str, digest: str) -> None:
    said = micropod("tag", ref, "app:2")
    assert (said.status, said.out) == (0, f"tagged {ref} as app:2\n")
    assert micropod("inspect", "-q", "app:2").out.strip() == digest
    assert micropod("tag", "-q", ref, "app:3").out == "docker.io/library/app:3\n"


def test_rmi_says_what_it_removed_and_what_that_freed(micropod: CommandLine, ref: str, digest: str) -> None:
    micropod("tag", ref, "app")
    assert micropod("rmi", ref).out == f"removed {ref}\nfreed 0 B\n"
    said = micropod("rmi", "app")
    assert re.fullmatch(rf"removed docker\.io/library/app:latest\nremoved {digest}\nfreed [\d.]+ (B|KiB)\n", said.out)
    assert micropod("rmi", "app").status == 3
    assert micropod("rmi", "--force", "app").status == 0


def test_rmi_says_names_and_digests_when_quiet(micropod: CommandLine, ref: str, digest: str) -> None:
    assert micropod("rmi", "-q", ref).out == f"{ref}\n{digest}\n"


def test_df_is_a_table_with_sums(micropod: CommandLine, digest: str) -> None:
    said = micropod("df")
    header, row, empty, total = said.out.splitlines()
    assert header.split() == ["REFERENCE", "PLATFORM", "OWN", "SHARED", "DIGEST"]
    assert row.endswith(digest[7:19])
    assert (empty, total.split()[0]) == ("", "Images")
    assert int(micropod("df", "-q").out) > 0


def test_gc_says_what_it_removed(micropod: CommandLine, digest: str) -> None:
    assert micropod("gc").out == "nothing to remove: every blob belongs to an image\n"
    stray = StoreLayout(micropod.root).blobs / ("0" * 64)
    stray.write_bytes(bytes(2048))
    assert "gc removes" in micropod("df").out
    said = micropod("gc", "-v")
    assert said.out == f"removed sha256:{'0' * 64}\nremoved 1 blob, freed 2.0 KiB\n"
    stray.write_bytes(bytes(2048))
    assert micropod("gc", "-q").out == f"sha256:{'0' * 64}\n"
    assert micropod("inspect", digest).status == 0


def test_version_says_where_the_tools_are_when_verbose(micropod: CommandLine, crane: Path) -> None:
    assert str(crane) in micropod("version", "-v").out
    assert str(crane) not in micropod("version").out
    assert len(micropod("version", "-q").out.splitlines()) == 1
