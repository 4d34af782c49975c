"""What a pull leaves in the store, and what it makes of what it finds there."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import IntegrityError, MicropodError, UsageError
from micropod_img.platforms import host_platform
from micropod_img.progress import FetchStarted, Notice
from micropod_img.pull.options import PullOptions
from micropod_img.service import ImageService
from tests.support import stores
from tests.support.faults import BLOBS, MANIFESTS
from tests.support.images import OCI_INDEX, attestation, image, index
from tests.support.layers import Blob, layer
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from micropod_img.progress import Event
    from tests.support.images import Manifest
    from tests.support.registries import Registry
    from tests.support.scripted import ScriptedRegistry

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64")
STATEMENT = attestation(AMD64)
BOTH = index([AMD64, ARM64, STATEMENT])
MOVED = index([image([TOP]), ARM64])


def entry_of(root: Path, digest: str) -> dict[str, stores.Json]:
    (entry,) = (one for one in stores.entries(root) if one["digest"] == digest)
    return entry


def blob_requests(scripted: ScriptedRegistry) -> set[str]:
    return {one.path.rpartition("/")[2] for one in scripted.requests if BLOBS in one.path}


# --- how an image is listed


def test_an_image_of_an_index_is_listed_with_its_platform_and_where_it_came_from(
    registry: Registry, repository: str, service: ImageService, store_root: Path
) -> None:
    ref = push(registry, repository, "v1", BOTH)
    service.pull_image(ref)
    entry = entry_of(store_root, AMD64.digest)
    assert entry["mediaType"] == AMD64.media_type
    assert entry["size"] == AMD64.size
    assert entry["platform"] == {"os": "linux", "architecture": "amd64"}
    assert stores.annotation(entry, stores.REFERENCE) == ref
    assert stores.annotation(entry, stores.REF_NAME) == ref
    assert stores.annotation(entry, "io.micropod.index-digest") == BOTH.digest
    assert stores.annotation(entry, "io.micropod.pulled-at").endswith("+00:00")


def test_one_platform_after_the_other_is_listed_beside_it_under_one_ref_name(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    others = [one for one in ("linux/amd64", "linux/arm64") if one != str(host_platform())]
    for platform in ("linux/arm64", "linux/amd64"):
        service.pull_image(ref, platform=platform)
    assert {digest for _, digest in stores.listed(store_root)} == {AMD64.digest, ARM64.digest}
    named = [one for one in stores.entries(store_root) if stores.annotation(one, stores.REF_NAME)]
    assert len(named) == 1
    if len(others) == 1:
        assert named[0]["platform"] == {"os": "linux", "architecture": host_platform().architecture}


def test_an_image_without_an_index_is_listed_with_the_platform_of_its_configuration(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    service.pull_image(scripted.serve("some/image", "v1", AMD64))
    assert entry_of(store_root, AMD64.digest)["platform"] == {"os": "linux", "architecture": "amd64"}
    assert stores.annotation(entry_of(store_root, AMD64.digest), "io.micropod.index-digest") == ""


def test_an_image_that_says_nothing_of_its_platform_is_for_the_one_that_was_wanted(
    scripted: ScriptedRegistry, service: ImageService
) -> None:
    ref = scripted.serve("some/data", "v1", image([BASE], config={"os": "", "architecture": ""}))
    assert str(service.pull_image(ref).platform) == "linux/amd64"
    scripted.forget_requests()
    service.pull_image(ref)
    assert scripted.requests == ()


def test_a_moved_tag_names_the_new_image_only(
    registry: Registry, repository: str, service: ImageService, store_root: Path
) -> None:
    ref = push(registry, repository, "v1", AMD64)
    service.pull_image(ref)
    new = image([TOP])
    assert push(registry, repository, "v1", new) == ref
    assert service.pull_image(ref).digest == AMD64.digest
    assert service.pull_image(ref, policy="always").digest == new.digest
    assert stores.listed(store_root) == [(ref, new.digest)]
    assert BASE.digest in service.collect_garbage().removed


def test_a_tag_with_a_digest_is_pulled_by_the_digest_and_keeps_both(
    registry: Registry, repository: str, service: ImageService
) -> None:
    ref = push(registry, repository, "v1", AMD64)
    push(registry, repository, "v1", image([TOP]))
    both = f"{ref}@{AMD64.digest}"
    assert (service.pull_image(both).ref, service.pull_image(both).digest) == (both, AMD64.digest)
    with pytest.raises(MicropodError):
        service.get_image(ref)


# --- whole indexes


def test_a_whole_index_that_is_here_touches_no_network(scripted: ScriptedRegistry, service: ImageService) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    service.pull_image(ref, all_platforms=True)
    scripted.forget_requests()
    assert service.pull_image(ref, all_platforms=True).digest == AMD64.digest
    assert service.pull_image(ref).digest == AMD64.digest
    assert service.pull_image(ref, platform="linux/arm64").digest == ARM64.digest
    assert scripted.requests == ()


@pytest.mark.parametrize("made", [AMD64, ARM64], ids=["for this platform", "for another one"])
def test_all_platforms_of_an_image_without_an_index_are_that_image(
    made: Manifest, scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", made)
    assert service.pull_image(ref, all_platforms=True).digest == made.digest
    assert entry_of(store_root, made.digest)["platform"] == {
        "os": "linux",
        "architecture": str(made.platform).partition("/")[2],
    }
    scripted.forget_requests()
    assert service.pull_image(ref, all_platforms=True).digest == made.digest
    assert scripted.requests == ()


def test_one_platform_is_not_taken_for_all_of_them(scripted: ScriptedRegistry, service: ImageService) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    service.pull_image(ref)
    scripted.forget_requests()
    service.pull_image(ref, all_platforms=True)
    assert scripted.requests != ()
    assert {one.digest for one in service.list_images()} == {AMD64.digest, ARM64.digest}
    assert blob_requests(scripted).isdisjoint({TOP.digest}) or scripted.count(TOP.digest) <= 1


def test_what_a_whole_index_lists_besides_manifests_is_a_part_of_it(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    odd = Blob("application/vnd.example.thing.v1", b"what only its maker knows")
    ref = scripted.serve("some/image", "v1", index([AMD64], fields={"manifests": [AMD64.descriptor, odd.descriptor]}))
    scripted.serve_blob("some/image", odd)
    service.pull_image(ref, all_platforms=True)
    assert stores.blob_path(store_root, odd.digest).read_bytes() == odd.content
    scripted.forget_requests()
    service.pull_image(ref, all_platforms=True)
    assert scripted.requests == ()


@pytest.mark.parametrize("lost", [BOTH, ARM64, STATEMENT, TOP, STATEMENT.layers[0], ARM64.config])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 3)])
def test_what_is_lost_of_a_whole_index_is_fetched_again(
    lost: Blob, damage: Callable[[Path], None], scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    service.pull_image(ref, all_platforms=True)
    kept = stores.inodes(store_root)
    damage(stores.blob_path(store_root, lost.digest))
    with pytest.raises(IntegrityError):
        service.pull_image(ref, all_platforms=True, policy="never")
    assert service.pull_image(ref, all_platforms=True).digest == AMD64.digest
    assert stores.problems(store_root) == []
    now = stores.inodes(store_root)
    layers = {one.digest for one in (BASE, TOP)} - {lost.digest}
    assert {digest: now[digest] for digest in layers} == {digest: kept[digest] for digest in layers}


@pytest.mark.parametrize("policy", ["missing", "never"])
def test_a_whole_index_that_is_damaged_is_told_also_where_one_platform_is_wanted(
    policy: str, scripted: ScriptedRegistry, service: ImageService, store_root: Path, events: list[Event]
) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    service.pull_image(ref, all_platforms=True)
    os.truncate(stores.blob_path(store_root, BOTH.digest), 3)
    if policy == "never":
        with pytest.raises(IntegrityError):
            service.pull_image(ref, policy="never", progress=events.append)
        assert events == []
    assert service.pull_image(ref, progress=events.append).digest == AMD64.digest
    assert [event for event in events if isinstance(event, Notice) and "it is fetched again" in event.message]


def test_a_damaged_index_does_not_keep_a_moved_tag_from_being_pulled(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    service.pull_image(ref, all_platforms=True)
    os.truncate(stores.blob_path(store_root, BOTH.digest), 3)
    scripted.serve("some/image", "v1", MOVED)
    assert service.pull_image(ref).index_digest == MOVED.digest
    assert [one.ref for one in service.list_images()] == [ref]
    assert BOTH.digest in service.collect_garbage().removed


def test_a_damaged_image_of_a_whole_index_does_not_keep_a_moved_tag_from_being_pulled(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", index([AMD64, replace(ARM64, platform=None)]))
    service.pull_image(ref, all_platforms=True)
    os.truncate(stores.blob_path(store_root, ARM64.digest), 3)
    moved = index([image([TOP])])
    scripted.serve("some/image", "v1", moved)
    assert service.pull_image(ref, policy="always").index_digest == moved.digest
    assert service.get_image(ref).digest == image([TOP]).digest
    service.collect_garbage()


# --- what is here already


def test_only_what_is_bad_is_fetched_again(scripted: ScriptedRegistry, service: ImageService, store_root: Path) -> None:
    ref = scripted.serve("some/image", "v1", index([AMD64]))
    service.pull_image(ref)
    kept = stores.inodes(store_root)
    os.truncate(stores.blob_path(store_root, TOP.digest), 3)
    scripted.forget_requests()
    report = service.pull_images([ref])
    now = stores.inodes(store_root)
    assert {digest for digest in kept if now[digest] != kept[digest]} == {TOP.digest}
    assert (report.downloaded_bytes, scripted.count(TOP.digest)) == (TOP.size, 1)


def test_the_bytes_of_a_layer_that_is_here_are_not_sent_again(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path, events: list[Event]
) -> None:
    service.pull_image(scripted.serve("some/image", "v1", image([BASE])))
    inode = stores.inodes(store_root)[BASE.digest]
    ref = scripted.serve("some/image", "v2", index([AMD64]))
    report = service.pull_images([ref], progress=events.append)
    (started,) = (event for event in events if isinstance(event, FetchStarted))
    assert [one.present for one in started.layers] == [True, False]
    assert report.reused_bytes == BASE.size
    assert stores.inodes(store_root)[BASE.digest] == inode


def test_an_image_is_whole_though_its_other_name_is_removed_as_it_is_pulled(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    """All blobs are here when the pull begins, because of a name that goes while it is under way."""
    old = scripted.serve("some/image", "v1", index([AMD64]))
    service.pull_image(old)
    new = scripted.serve("some/image", "v2", index([AMD64, ARM64]))

    def sink(event: Event) -> None:
        if isinstance(event, FetchStarted):
            service.delete_image(old)
            service.collect_garbage()

    pulled = service.pull_image(new, progress=sink)
    assert pulled.layers == (BASE.digest, TOP.digest)
    assert stores.listed(store_root) == [(new, AMD64.digest)]
    assert stores.problems(store_root) == []


def test_a_torn_layer_that_the_early_crane_saw_is_never_published(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    service.pull_image(scripted.serve("some/image", "v0", image([layer({"else": b""})])))
    torn = stores.blob_path(store_root, BASE.digest)
    torn.write_bytes(BASE.content[:-1])
    new = scripted.serve("some/image", "v1", index([AMD64]))

    def sink(event: Event) -> None:
        if isinstance(event, FetchStarted) and torn.exists():
            torn.unlink()

    assert service.pull_image(new, progress=sink).digest == AMD64.digest
    assert stores.problems(store_root) == []


def test_a_digest_that_is_here_under_a_name_that_goes_is_pulled_again(
    scripted: ScriptedRegistry,
    service: ImageService,
    store_root: Path,
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tagged = scripted.serve("some/image", "v1", index([AMD64]))
    service.pull_image(tagged)
    by_digest = scripted.reference("some/image", AMD64.digest)
    prepare = service._store.prepare

    def while_another_removes_it() -> None:
        monkeypatch.undo()
        ImageService(store_root, config_file).delete_image(tagged)
        prepare()

    monkeypatch.setattr(service._store, "prepare", while_another_removes_it)
    assert service.pull_image(by_digest).digest == AMD64.digest
    assert stores.listed(store_root) == [(by_digest, AMD64.digest)]
    assert stores.problems(store_root) == []


def test_a_digest_of_one_platform_of_a_whole_index_is_that_platform(
    scripted: ScriptedRegistry, service: ImageService
) -> None:
    ref = scripted.serve("some/image", "v1", BOTH)
    service.pull_image(ref, all_platforms=True)
    scripted.forget_requests()
    by_digest = scripted.reference("some/image", ARM64.digest)
    assert service.pull_image(by_digest, platform="linux/arm64").digest == ARM64.digest
    assert service.get_image(by_digest, platform="linux/arm64").digest == ARM64.digest
    assert scripted.requests == ()


def test_what_the_registry_forbids_leaves_the_image_that_is_here(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", AMD64)
    service.pull_image(ref)
    scripted.serve("some/image", "v1", image([TOP], diff_ids=[]))
    with pytest.raises(IntegrityError):
        service.pull_image(ref, policy="always")
    assert stores.listed(store_root) == [(ref, AMD64.digest)]
    assert service.pull_image(ref).digest == AMD64.digest


@pytest.mark.parametrize("policy", ["newer", "always"])
def test_a_policy_that_asks_does_so_though_a_digest_is_here(
    policy: str, scripted: ScriptedRegistry, service: ImageService
) -> None:
    scripted.serve("some/image", "v1", AMD64)
    ref = scripted.reference("some/image", AMD64.digest)
    service.pull_image(ref)
    scripted.forget_requests()
    service.pull_images([ref], PullOptions(policy=policy))  # type: ignore[arg-type]  # from a table
    # What a digest names does not move.
    assert (scripted.count(MANIFESTS, method=None) > 0) == (policy == "always")


def test_documents_are_kept_byte_for_byte(scripted: ScriptedRegistry, service: ImageService, store_root: Path) -> None:
    spaced = json.dumps(json.loads(AMD64.content), indent=4).encode() + b"\n\n"
    odd = replace(AMD64, content=spaced)
    top = replace(index([odd]), content=json.dumps(json.loads(index([odd]).content), indent=1).encode())
    service.pull_image(scripted.serve("some/image", "v1", top))
    assert stores.blob_path(store_root, odd.digest).read_bytes() == spaced
    assert stores.blob_path(store_root, top.digest).read_bytes() == top.content


def test_a_registry_that_names_no_media_types_serves_images_all_the_same(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    document = json.loads(AMD64.content)
    del document["mediaType"]
    plain = replace(AMD64, content=json.dumps(document).encode())
    top = json.loads(index([plain]).content)
    del top["mediaType"]
    service.pull_image(
        scripted.serve("some/image", "v1", replace(index([plain]), content=json.dumps(top).encode())),
        all_platforms=True,
    )
    (entry,) = stores.entries(store_root)
    assert entry["mediaType"] == OCI_INDEX


def test_one_character_repositories_and_sha512_are_refused_plainly(service: ImageService) -> None:
    for ref in ("127.0.0.1:1/a:v1", f"127.0.0.1:1/some/image@sha512:{'ab' * 64}"):
        with pytest.raises(MicropodError) as caught:
            service.pull_image(ref)
        assert (caught.value.code, caught.value.exit_status) == ("reference-unsupported", 8)


def test_a_policy_that_there_is_not_is_refused(service: ImageService) -> None:
    with pytest.raises(UsageError):
        service.pull_image("alpine", policy="often")  # type: ignore[arg-type]  # from a caller without types
