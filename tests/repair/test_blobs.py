"""`verify --repair` on blobs: what is bad is fetched again, and only that; what cannot be saved is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.pull.options import PullOptions
from micropod_img.store.repair.files import FileRepair
from micropod_img.store.store import Store
from tests.repair.filled import AMD64, ARM64, BASE, BOTH, OTHER, TOP, Here, done
from tests.store import damage
from tests.support import stores
from tests.support.faults import on
from tests.support.layers import random_layer
from tests.support.layouts import put_blob
from tests.support.scripted import oci_error, scripted_registry

if TYPE_CHECKING:
    from micropod_img.progress import Event
    from micropod_img.service import ImageService
    from tests.store.damage import Damage, OfABlob
    from tests.support.layers import Blob
    from tests.support.scripted import ScriptedRegistry


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


def test_a_blob_that_others_brought_since_it_was_looked_at_is_left_alone(here: Here) -> None:
    place = stores.blob_path(here.root, TOP.digest)
    damage.made_a_directory(TOP)(here.root)
    found = here.service.verify()
    place.rmdir()
    place.write_bytes(TOP.content)
    repair = FileRepair(Store(here.root), ())
    repair.others(found.problems)
    assert place.read_bytes() == TOP.content
    assert repair.repaired == []


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


def test_images_of_an_index_that_cannot_be_fetched_now_are_not_taken_for_lost_ones(here: Here) -> None:
    listed = here.listed()
    damage.removed(BOTH)(here.root)
    here.registry.faults = (on("/manifests/", oci_error(401, "UNAUTHORIZED")),)
    try:
        assert {one.code for one in here.repair().problems} == {"missing-blob"}
        assert here.listed() == listed
    finally:
        here.registry.faults = ()
    assert here.repair().problems == ()
    assert here.listed() == listed


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
