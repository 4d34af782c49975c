"""`verify --repair` on images: what is bad is fetched again, and only that; what cannot be saved is said."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from micropod_img.pull.job import PullOptions
from micropod_img.service import ImageService
from micropod_img.store.store import Store
from tests.store import damage
from tests.support import stores
from tests.support.images import OCI_INDEX, attestation, image, index
from tests.support.layers import layer, random_layer
from tests.support.layouts import put_blob, put_blobs
from tests.support.processes import run
from tests.support.scripted import scripted_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from micropod_img.problems import Verification
    from micropod_img.progress import Event
    from tests.store.damage import Damage, OfABlob
    from tests.support.layers import Blob
    from tests.support.scripted import ScriptedRegistry

BASE, TOP = layer({"etc/motd": b"base"}), random_layer(1_500_000)
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64")
BOTH = index([AMD64, ARM64, attestation(AMD64)])
OTHER = image([BASE, layer({"etc/hosts": b"other"})])


class Here:
    """A store that was filled from a registry, which counts what it is asked for."""

    def __init__(self, service: ImageService, registry: ScriptedRegistry) -> None:
        self.service = service
        self.registry = registry
        self.root = service.root
        self.one = registry.serve("one", "1", BOTH)
        self.whole = registry.serve("whole", "1", BOTH)
        self.other = registry.serve("other", "1", OTHER)
        self.names = {self.one, self.whole, self.other}
        self.written: set[str] = set()

    def fill(self) -> None:
        self.service.pull_image(self.one)
        self.service.pull_image(self.whole, all_platforms=True)
        self.service.pull_image(self.other)

    def repair(self) -> Verification:
        before = stores.inodes(self.root)
        found = self.service.repair()
        self.written = {digest for digest, inode in stores.inodes(self.root).items() if before.get(digest) != inode}
        return found

    def listed(self) -> set[tuple[str, str]]:
        return set(stores.listed(self.root))


@pytest.fixture(scope="module")
def registry() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as registry:
        yield registry


@pytest.fixture(scope="module")
def filled(registry: ScriptedRegistry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that each test gets a copy of: filling it takes longer than most of them."""
    directory = tmp_path_factory.mktemp("filled")
    Here(service_on(directory / "store", directory), registry).fill()
    return directory / "store"


def service_on(root: Path, directory: Path) -> ImageService:
    (directory / "registries.conf").touch()
    (directory / "config.toml").write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    return ImageService(root, directory / "config.toml")


@pytest.fixture
def service(store_root: Path, tmp_path: Path) -> ImageService:
    return service_on(store_root, tmp_path)


@pytest.fixture
def here(service: ImageService, filled: Path, registry: ScriptedRegistry) -> Here:
    shutil.copytree(filled, service.root, dirs_exist_ok=True)
    here = Here(service, registry)
    registry.forget_requests()
    return here


def done(found: Verification) -> list[str]:
    return [one.code for one in found.repaired]


BAD = {
    "an empty layer": damage.emptied(TOP),
    "a layer cut short": damage.cut_short(TOP),
    "a layer of the right size": damage.flipped(TOP),
    "a missing layer": damage.removed(TOP),
    "a directory": damage.made_a_directory(TOP),
    "a pipe": damage.made_a_fifo(TOP),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_layer_is_fetched_again_and_nothing_else(bad: Damage, here: Here) -> None:
    listed, index_json = here.listed(), damage.index(here.root).read_bytes()
    bad(here.root)
    found = here.repair()
    assert found.problems == ()
    assert [one for one in done(found) if one not in {"moved-aside", "removed-file"}] == ["fetched-image"]
    assert here.written == {TOP.digest}
    assert (here.listed(), damage.index(here.root).read_bytes()) == (listed, index_json)
    assert here.service.verify().problems == ()


DOCUMENTS = {
    "a configuration": OTHER.blobs[0],
    "a manifest": OTHER,
    "the manifest of an index": ARM64,
    "an index": BOTH,
}


@pytest.mark.parametrize("bad", [damage.removed, damage.flipped, damage.emptied], ids=["missing", "changed", "empty"])
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_bad_document_is_fetched_again(document: Blob, bad: OfABlob, here: Here) -> None:
    listed = here.listed()
    bad(document)(here.root)
    found = here.repair()
    assert found.problems == ()
    assert set(done(found)) == {"fetched-image"}
    assert here.written == {document.digest}
    assert here.listed() == listed


def test_a_tag_that_moved_meanwhile_stays_the_image_that_it_was(here: Here) -> None:
    listed = here.listed()
    here.registry.serve("other", "1", AMD64)
    damage.flipped(OTHER.layers[1])(here.root)
    assert here.repair().problems == ()
    assert here.listed() == listed


def test_an_image_whose_index_is_gone_at_the_registry_is_saved_by_its_own_digest(
    service: ImageService, scripted: ScriptedRegistry
) -> None:
    ref = scripted.serve("app", "1", BOTH)
    service.pull_image(ref)
    scripted.forget_manifest("app", BOTH.digest)
    damage.flipped(TOP)(service.root)
    assert service.repair().problems == ()


def test_what_the_registry_has_no_more_is_dropped_and_said_to_be_lost(here: Here) -> None:
    here.registry.forget_manifest("other", OTHER.digest)
    damage.removed(OTHER.layers[1])(here.root)
    found = here.repair()
    assert found.problems == ()
    assert done(found) == ["dropped-entry"]
    assert found.repaired[0].images == (here.other,)
    assert "is lost" in found.repaired[0].message
    assert {name for name, _ in here.listed()} == here.names - {here.other}
    (kept,) = (here.root / "damaged").iterdir()
    assert OTHER.digest in kept.read_text()
    assert here.service.verify().problems == ()


def test_of_a_whole_index_that_cannot_be_saved_the_whole_images_stay(here: Here) -> None:
    here.service.delete_image(here.one)
    for digest in (BOTH.digest, AMD64.digest):
        here.registry.forget_manifest("whole", digest)
    damage.removed(TOP)(here.root)
    found = here.repair()
    assert found.problems == ()
    assert done(found) == ["dropped-entry"]
    assert (here.whole, ARM64.digest) in here.listed()
    assert (here.whole, AMD64.digest) not in here.listed()


def test_without_a_registry_what_is_here_is_repaired_and_the_rest_stays_as_it_is(service: ImageService) -> None:
    with scripted_registry() as registry:
        here = Here(service, registry)
        here.fill()
    listed = here.listed()
    damage.flipped(TOP)(here.root)
    damage.with_mode(BASE, 0o666)(here.root)
    damage.entry_repeated(2)(here.root)
    events: list[Event] = []
    bad = damage.blob(here.root, TOP).read_bytes()
    found = here.service.repair(PullOptions(timeout=5), progress=events.append)
    assert [one.code for one in found.problems] == ["corrupt-blob"]
    assert set(done(found)) == {"changed-mode", "merged-entries"}
    assert damage.blob(here.root, TOP).read_bytes() == bad
    assert here.listed() == listed
    assert any("cannot be fetched again now" in getattr(event, "message", "") for event in events)


def test_what_nothing_needs_and_is_no_blob_is_removed(here: Here) -> None:
    spare = random_layer(100)
    put_blob(here.root / "images", spare)
    damage.emptied(spare)(here.root)
    (here.root / "images/blobs/sha256" / (TOP.digest[7:] + "123")).write_bytes(b"torn")
    found = here.repair()
    assert (found.problems, set(done(found))) == ((), {"removed-blob", "removed-file"})
    assert stores.problems(here.root) == []


def test_a_blob_under_a_wrong_name_gets_its_own_again(here: Here) -> None:
    damage.blob(here.root, TOP).rename(here.root / "images/blobs/sha256/layer.tar.gz")
    found = here.repair()
    assert (found.problems, done(found)) == ((), ["renamed-blob"])
    assert here.registry.requests == ()


def test_a_link_to_the_right_bytes_becomes_a_file(here: Here) -> None:
    damage.made_a_link(TOP)(here.root)
    found = here.repair()
    assert (found.problems, done(found)) == ((), ["copied-blob"])
    assert here.registry.requests == ()


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
