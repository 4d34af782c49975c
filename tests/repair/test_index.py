"""`verify --repair` on the index and the files of a store: put right without the network."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from micropod_img.service import ImageService
from micropod_img.store.store import Store
from tests.repair.filled import AMD64, ARM64, BASE, BOTH, OTHER, TOP, Here, done
from tests.store import damage
from tests.support import stores
from tests.support.images import OCI_INDEX, image
from tests.support.layers import random_layer
from tests.support.layouts import put_blobs
from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.damage import Damage
    from tests.support.scripted import ScriptedRegistry


# The index

TORN = {
    "nothing": damage.index_is(b""),
    "zero bytes": damage.index_is(bytes(4096)),
    "garbage": damage.index_is(bytes(range(256))),
    "deep nesting": damage.index_is(b'{"manifests": ' + b"[" * 100_000),
    "a list": damage.index_is(b"[]"),
    "no file": lambda root: damage.index(root).unlink(),
}


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN)
def test_a_torn_index_of_which_nothing_is_left_is_made_of_the_images_that_are_here(tear: Damage, here: Here) -> None:
    tear(here.root)
    found = here.repair()
    assert found.problems == ()
    assert done(found)[0] == "rebuilt-index"
    assert here.listed() == {("", BOTH.digest), ("", OTHER.digest)}
    here.service.tag_image(OTHER.digest, "again:1")
    assert here.service.get_image("again:1").digest == OTHER.digest
    assert here.service.verify().problems == ()


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_of_an_index_that_was_cut_short_all_whole_entries_keep_their_names(part: float, here: Here) -> None:
    listed = stores.listed(here.root)
    damage.index_cut_to(part)(here.root)
    torn = damage.index(here.root).read_bytes()
    found = here.repair()
    assert found.problems == ()
    kept = [one for one in here.listed() if one[0]]
    assert len(kept) >= (part >= 0.5) + (part >= 0.9)
    assert set(kept) <= set(listed)
    assert {one.digest for one in here.service.list_images()} == {AMD64.digest, ARM64.digest, OTHER.digest}
    (aside,) = (here.root / "damaged").iterdir()
    assert aside.read_bytes() == torn
    assert str(aside) in found.repaired[0].message


def test_an_index_with_one_byte_that_is_no_text_loses_one_entry_at_most(here: Here) -> None:
    path = damage.index(here.root)
    path.write_bytes(path.read_bytes().replace(b"other:1", b"other\xff1"))
    found = here.repair()
    assert found.problems == ()
    assert {name for name, _ in here.listed()} >= here.names - {here.other}


ENTRIES = {
    "no digest": damage.entry_changed(2, digest="sha256:12"),
    "no object": damage.entry_added("sha256"),
    "another size": damage.entry_changed(2, size=7),
    "an index's type": damage.entry_changed(2, mediaType=OCI_INDEX),
    "an unknown type": damage.entry_changed(2, mediaType="text/x"),
    "no type": damage.entry_changed(2, mediaType=None),
    "half a platform": damage.entry_changed(2, platform={"os": "linux"}),
    "another platform than its index says": damage.entry_changed(0, platform={"os": "linux", "architecture": "s390x"}),
    "the same twice": damage.entry_repeated(2),
    "no name": damage.entry_annotated(2, org__opencontainers__image__ref__name=None),
    "two names": damage.entry_annotated(2, org__opencontainers__image__ref__name="elsewhere"),
    "an index digest that is none": damage.entry_annotated(2, io__micropod__index_digest="x"),
    "a time that is none": damage.entry_annotated(2, io__micropod__pulled_at="yesterday"),
}


@pytest.mark.parametrize("wrong", ENTRIES.values(), ids=ENTRIES)
def test_a_wrong_entry_is_put_right_without_the_network(wrong: Damage, here: Here) -> None:
    before = {digest for _, digest in here.listed()}
    wrong(here.root)
    found = here.repair()
    assert found.problems == ()
    assert found.repaired
    assert here.registry.requests == ()
    assert {digest for _, digest in here.listed()} == before
    assert stores.problems(here.root) == []


def test_of_two_images_of_one_name_the_later_keeps_it_and_the_other_stays_without(here: Here) -> None:
    damage.entry_repeated(2, digest=AMD64.digest, size=AMD64.size)(here.root)
    assert here.repair().problems == ()
    assert {(here.other, AMD64.digest), ("", OTHER.digest)} <= here.listed()


def test_what_crane_listed_again_and_again_is_listed_once(
    crane: Path, scripted: ScriptedRegistry, service: ImageService
) -> None:
    source = scripted.serve("app", "1", AMD64)
    for pulled in (AMD64, AMD64, AMD64, OTHER):
        scripted.serve("app", "1", pulled)
        run(crane, "pull", "--format=oci", "--annotate-ref", source, service.root / "images").check_returncode()
    found = service.repair()
    assert found.problems == ()
    assert [image.digest for image in service.list_images() if image.ref == source] == [OTHER.digest]
    assert {image.digest for image in service.list_images()} == {AMD64.digest, OTHER.digest}


# Images that nothing lists


def test_a_whole_image_that_nothing_lists_is_listed_by_its_digest(here: Here) -> None:
    lost = image([BASE, random_layer(100)])
    put_blobs(here.root / "images", lost)
    assert here.service.verify().unlisted == (lost.digest,)
    found = here.repair()
    assert (found.problems, done(found), found.unlisted) == ((), ["adopted-image"], ())
    assert ("", lost.digest) in here.listed()
    assert here.service.get_image(lost.digest).platform.architecture == "amd64"


def test_an_image_that_a_pull_is_about_to_list_is_left_to_it(here: Here) -> None:
    lost = image([BASE, random_layer(100)])
    put_blobs(here.root / "images", lost)
    store = Store(here.root)
    with store.stage("pull") as staging:
        store.blobs.link_into(staging.path, [lost.digest])
        assert done(here.repair()) == []
    assert ("", lost.digest) not in here.listed()


# Files of the store


@pytest.mark.parametrize("content", [b"", b"\n", b"x\xff", b"0"])
def test_a_torn_version_file_is_written_again(content: bytes, here: Here, tmp_path: Path) -> None:
    (here.root / "version").write_bytes(content)
    service = ImageService(here.root, tmp_path / "config.toml", damaged=True)
    found = service.repair()
    assert (found.problems, done(found)) == ((), ["rewrote-version"])
    assert len(ImageService(here.root).list_images()) == 4


def test_a_layout_that_other_tools_refuse_is_one_again(here: Here) -> None:
    (here.root / "images/oci-layout").write_bytes(b"")
    assert done(here.repair()) == ["rewrote-layout"]
    assert json.loads((here.root / "images/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_a_file_of_somebody_else_stays_and_is_told_of(here: Here) -> None:
    (here.root / "notes").write_text("mine")
    found = here.repair()
    assert ([one.code for one in found.problems], done(found)) == (["foreign-file"], [])
    assert (here.root / "notes").read_text() == "mine"


def test_nothing_is_made_where_there_is_nothing(service: ImageService) -> None:
    assert service.repair().repaired == ()
    assert list(service.root.iterdir()) == []


def test_a_directory_that_is_no_store_is_left_alone(service: ImageService) -> None:
    service.root.chmod(0o755)
    (service.root / "images").mkdir()
    (service.root / "images/holidays.jpg").touch()
    assert service.repair().problems == ()
    assert sorted(path.name for path in service.root.rglob("*")) == ["holidays.jpg", "images"]
    assert service.root.stat().st_mode & 0o777 == 0o755


def test_a_layout_of_another_tool_with_a_bad_blob_is_repaired_from_its_name(
    crane: Path, scripted: ScriptedRegistry, service: ImageService
) -> None:
    source = scripted.serve("app", "1", BOTH)
    run(crane, "pull", "--format=oci", "--annotate-ref", source, service.root / "images").check_returncode()
    damage.flipped(TOP)(service.root)
    assert service.repair().problems == ()
    nameless = service.root.parent / "nameless"
    nameless.mkdir(mode=0o700)
    shutil.copytree(service.root / "images", nameless / "images")
    damage.entry_changed(0, annotations=None)(nameless)
    damage.removed(TOP)(nameless)
    damage.removed(ARM64.blobs[0])(nameless)
    other = ImageService(nameless, service.root.parent / "config.toml")
    assert done(other.repair()) == ["dropped-entry"]
    assert other.list_images() == []
