from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import (
    IntegrityError,
    InvalidReference,
    MicropodError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from micropod_img.models import Layer
from micropod_img.platforms import Platform
from micropod_img.reference import Reference
from micropod_img.store.images import ImageStore, Record, distinct_entries
from tests.support.images import CREATED, OCI_MANIFEST, artifact, attestation, image, index
from tests.support.layers import layer
from tests.support.layouts import PULLED_AT, listed_as, pulled, put_blob, put_blobs, write_layout
from tests.support.mounts import run_with_mounts

if TYPE_CHECKING:
    from micropod_img.digest import Digest
    from micropod_img.models import Image
    from micropod_img.store.store import Store
    from tests.support.images import Manifest

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"}, compression="zstd")
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64/v8")
BOTH = index([AMD64, ARM64])
LINUX = Platform("linux", "amd64")


def records_of(store: Store, images: ImageStore) -> list[Record]:
    return list(images.records(store.read_index().entries))


def digests(records: list[Record]) -> list[Digest]:
    return [record.digest for record in records]


def only(store: Store, images: ImageStore) -> Image:
    (record,) = records_of(store, images)
    return images.image(record)


def config_digest(document: Manifest) -> Digest:
    assert document.config is not None
    return document.config.digest


# An image read back


def test_an_image_is_read_back_with_all_that_is_known_of_it(store: Store, images: ImageStore) -> None:
    pulled(store, "app:1", AMD64, top=BOTH)
    os.utime(store.layout.blob(AMD64.digest), (0, 1_700_000_000))
    read = only(store, images)
    assert (read.ref, read.digest, read.index_digest) == ("docker.io/library/app:1", AMD64.digest, BOTH.digest)
    assert (read.media_type, read.platform) == (AMD64.media_type, LINUX)
    assert read.config_digest == config_digest(AMD64)
    assert read.layer_details == tuple(
        Layer(each.digest, each.diff_id, each.media_type, each.size) for each in (BASE, TOP)
    )
    assert read.layers == (BASE.digest, TOP.digest)
    assert AMD64.config is not None
    assert read.size == AMD64.size + AMD64.config.size + BASE.size + TOP.size
    assert read.created == datetime.fromisoformat(CREATED)
    assert read.pulled_at == datetime.fromisoformat(PULLED_AT)
    assert read.last_used_at == datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(image([]), id="no layers"),
        pytest.param(image([BASE, TOP], docker=True), id="Docker's media types"),
        pytest.param(image([BASE], config={"created": None}), id="no time"),
        pytest.param(image([BASE], config={"created": "yesterday"}), id="a time that is none"),
        pytest.param(image([BASE], config={"created": "0001-01-01T00:00:00Z"}), id="Go's zero time"),
        pytest.param(image([BASE], fields={"subject": {"digest": "x"}}), id="a subject"),
    ],
)
def test_images_of_all_kinds_are_read_back(document: Manifest, store: Store, images: ImageStore) -> None:
    pulled(store, "app:1", document)
    assert only(store, images).layers == tuple(each.digest for each in document.layers)


def test_a_layer_that_an_image_has_twice_counts_once(store: Store, images: ImageStore) -> None:
    document = image([BASE, TOP, BASE])
    pulled(store, "app:1", document)
    read = only(store, images)
    assert read.layers == (BASE.digest, TOP.digest, BASE.digest)
    assert document.config is not None
    assert read.size == document.size + document.config.size + BASE.size + TOP.size


@pytest.mark.parametrize("what", ["manifest", "configuration", "layer"])
@pytest.mark.parametrize("how", ["missing", "cut short", "too long", "other bytes"])
def test_a_damaged_image_is_an_error_that_says_what_to_do(
    what: str, how: str, store: Store, images: ImageStore
) -> None:
    pulled(store, "app:1", AMD64)
    digest = {"manifest": AMD64.digest, "configuration": config_digest(AMD64), "layer": TOP.digest}[what]
    path = store.layout.blob(digest)
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut short": content[:-1], "too long": content + b"x"}.get(how, content[:-1] + b"?"))
    if (what, how) == ("layer", "other bytes"):
        only(store, images)  # gigabytes are not read again to list an image; verify does
        return
    with pytest.raises(IntegrityError) as raised:
        only(store, images)
    assert digest in raised.value.message
    assert raised.value.exit_status == 7
    assert "pull" in (raised.value.hint or "")


@pytest.mark.parametrize("number", [0, 1, 3])
def test_an_image_with_other_diff_ids_than_layers_is_damaged(number: int, store: Store, images: ImageStore) -> None:
    pulled(store, "app:1", image([BASE, TOP], diff_ids=[BASE.diff_id] * number))
    with pytest.raises(IntegrityError, match=f"2 layers and {number} diff IDs"):
        only(store, images)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"rootfs": {"diff_ids": [7, 7]}}', b'{"rootfs": 7}', b'{"os": []}', b"\xff" * 10]
)
def test_a_configuration_that_is_none_is_damage(content: bytes, store: Store, images: ImageStore) -> None:
    config = replace(AMD64.config or BASE, content=content)
    document = image([BASE, TOP], fields={"config": config.descriptor})
    pulled(store, "app:1", document)
    put_blob(store.layout.images, config)
    with pytest.raises(IntegrityError):
        only(store, images)


def test_an_artifact_is_no_image_and_no_damage(store: Store, images: ImageStore) -> None:
    chart = artifact()
    put_blobs(store.layout.images, chart)
    write_layout(store.layout.images, [listed_as(chart, "example.com/chart:1")])
    with pytest.raises(UnsupportedError, match=r"example\.com/chart:1 is an artifact") as raised:
        only(store, images)
    assert (raised.value.code, raised.value.exit_status) == ("not-an-image", 8)


def test_a_manifest_that_is_called_an_index_or_the_other_way_round_is_not_taken(
    store: Store, images: ImageStore
) -> None:
    put_blobs(store.layout.images, BOTH)
    for document, called in ((AMD64, BOTH.media_type), (BOTH, AMD64.media_type)):
        write_layout(store.layout.images, [listed_as(document, mediaType=called)])
        with pytest.raises(IntegrityError):
            only(store, images)


def test_an_image_that_another_process_removes_meanwhile_is_missing(
    store: Store, images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled(store, "app:1", AMD64)
    (record,) = records_of(store, images)
    has = store.blobs.has

    def removed_after_the_look(digest: Digest, size: int) -> bool:
        found = has(digest, size)
        store.layout.blob(AMD64.digest).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(store.blobs, "has", removed_after_the_look)
    with pytest.raises(IntegrityError, match="is missing"):
        images.image(record)


# What is listed


def test_a_whole_index_lists_its_images_one_by_one(store: Store, images: ImageStore) -> None:
    entry = pulled(store, "app:1", BOTH)
    records = records_of(store, images)
    assert digests(records) == [AMD64.digest, ARM64.digest]
    assert {record.entry.digest for record in records} == {entry.digest}
    assert [str(images.image(record).platform) for record in records] == ["linux/amd64", "linux/arm64"]
    assert {images.image(record).index_digest for record in records} == {BOTH.digest}


def test_what_a_nested_index_lists_is_listed_too(store: Store, images: ImageStore) -> None:
    pulled(store, "app:1", index([index([AMD64]), index([index([ARM64])])]))
    assert digests(records_of(store, images)) == [AMD64.digest, ARM64.digest]


def test_attestations_and_artifacts_of_an_index_are_no_images(store: Store, images: ImageStore) -> None:
    plain = replace(ARM64, platform=None)  # an image that the index says no platform of
    pulled(store, "app:1", index([AMD64, attestation(AMD64), artifact(), plain]))
    assert digests(records_of(store, images)) == [AMD64.digest, ARM64.digest]
    assert [str(images.platform_of(record)) for record in records_of(store, images)] == ["linux/amd64", "linux/arm64"]


def test_of_an_index_that_was_copied_in_part_only_what_is_here_is_listed(store: Store, images: ImageStore) -> None:
    pulled(store, "app:1", BOTH)
    store.layout.blob(ARM64.digest).unlink()
    assert digests(records_of(store, images)) == [AMD64.digest]


@pytest.mark.parametrize("how", ["missing", "corrupt", "none of its images here"])
def test_a_damaged_whole_index_hides_no_other_image_and_says_why_when_it_is_read(
    how: str, store: Store, images: ImageStore
) -> None:
    pulled(store, "app:1", BOTH)
    pulled(store, "other:1", image([BASE], config={"author": "other"}))
    if how == "missing":
        store.layout.blob(BOTH.digest).unlink()
    elif how == "corrupt":
        store.layout.blob(BOTH.digest).write_bytes(b"{")
    else:
        for document in (AMD64, ARM64):
            store.layout.blob(document.digest).unlink()
    first, second = records_of(store, images)
    assert images.image(second).ref == "docker.io/library/other:1"
    with pytest.raises(IntegrityError):
        images.image(first)
    assert images.lookup("other:1") == [second]
    assert digests(images.lookup("app:1")) == digests(images.lookup(BOTH.digest)) == [BOTH.digest]


# Finding


def test_an_image_is_found_by_its_reference_in_every_spelling(store: Store, images: ImageStore) -> None:
    pulled(store, "alpine", AMD64)
    for text in ("alpine", "alpine:latest", "library/alpine", "docker.io/alpine", "index.docker.io/library/alpine"):
        assert digests(images.find(Reference.parse(text))) == [AMD64.digest]
    for text in ("alpine:3", "example.com/alpine", "alpin"):
        assert images.find(Reference.parse(text)) == []


def test_a_digest_finds_an_image_by_its_manifest_and_by_its_index(store: Store, images: ImageStore) -> None:
    pulled(store, "app:1", AMD64, top=BOTH)
    pulled(store, "app:1", ARM64, top=BOTH)
    by_index = [AMD64.digest, ARM64.digest]
    assert digests(images.find(Reference.parse(f"app@{AMD64.digest}"))) == [AMD64.digest]
    assert digests(images.find(Reference.parse(f"app@{BOTH.digest}"))) == by_index
    assert digests(images.find(Reference.parse(f"app:other@{BOTH.digest}"))) == by_index
    assert digests(images.lookup(BOTH.digest)) == by_index
    assert images.find(Reference.parse(f"other@{AMD64.digest}")) == []
    assert images.find(Reference.parse(f"app@{BASE.digest}")) == []
    assert images.find(Reference.parse("app@sha512:" + "0" * 128)) == []


def test_a_reference_that_is_listed_with_its_digest_is_found_before_others_of_its_repository(
    store: Store, images: ImageStore
) -> None:
    pulled(store, "app:1", AMD64)
    pulled(store, f"app:1@{AMD64.digest}", AMD64)
    (record,) = images.find(Reference.parse(f"app:1@{AMD64.digest}"))
    assert record.entry.reference == f"docker.io/library/app:1@{AMD64.digest}"


@pytest.mark.parametrize("form", ["sha256:{0}", "{0}", "sha256:{1}", "{1}", "{2}", "sha256:{2}"])
@pytest.mark.parametrize("document", [AMD64, BOTH], ids=["manifest", "index"])
def test_an_image_is_found_by_a_digest_and_by_the_beginning_of_one(
    form: str, document: Manifest, store: Store, images: ImageStore
) -> None:
    pulled(store, "app:1", AMD64, top=BOTH)
    digits = document.digest.removeprefix("sha256:")
    assert digests(images.lookup(form.format(digits, digits[:12], digits[:4]))) == [AMD64.digest]


def test_a_repository_that_looks_like_a_digest_comes_first(store: Store, images: ImageStore) -> None:
    name = AMD64.digest.removeprefix("sha256:")[:12]
    pulled(store, "app:1", AMD64)
    pulled(store, name, ARM64)
    assert digests(images.lookup(name)) == [ARM64.digest]
    assert digests(images.lookup(f"sha256:{name}")) == [AMD64.digest]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        pytest.param("nothing", NotFoundError, id="a name"),
        pytest.param("app:2", NotFoundError, id="another tag"),
        pytest.param("sha256:" + "0" * 64, NotFoundError, id="a digest"),
        pytest.param("0" * 64, NotFoundError, id="the digits of a digest"),
        pytest.param("beef", NotFoundError, id="a prefix, or a name"),
        pytest.param(AMD64.digest[: len("sha256:") + 3], NotFoundError, id="three digits"),
        pytest.param(AMD64.digest.upper(), InvalidReference, id="an uppercase digest"),
        pytest.param(f"{AMD64.digest}0", NotFoundError, id="a digit too many, a tag by the grammar"),
        pytest.param("", InvalidReference, id="nothing"),
        pytest.param("../x", InvalidReference, id="a path"),
        pytest.param("app:1\n", InvalidReference, id="a newline"),
        pytest.param("App", InvalidReference, id="an uppercase name"),
    ],
)
def test_what_nothing_here_is_called_is_not_found(
    text: str, kind: type[MicropodError], store: Store, images: ImageStore
) -> None:
    pulled(store, "app:1", AMD64)
    with pytest.raises(MicropodError) as raised:
        images.lookup(text)
    assert type(raised.value) is kind


def _alike(first: Manifest, **fields: object) -> Manifest:
    """Make an image whose digest begins as another's does."""
    prefix = first.digest[: len("sha256:") + 4]
    for number in range(1_000_000):
        made = image([], fields={"annotations": {"number": str(number)}}, **fields)  # type: ignore[arg-type]
        if made.digest.startswith(prefix):
            return made
    raise AssertionError


@pytest.fixture(scope="module")
def alike() -> tuple[Manifest, Manifest]:
    """Two images whose digests begin with the same four digits."""
    return ARM64, _alike(ARM64)


def test_a_prefix_of_several_digests_is_ambiguous(
    alike: tuple[Manifest, Manifest], store: Store, images: ImageStore
) -> None:
    for number, document in enumerate(alike):
        pulled(store, f"app:{number}", document)
    with pytest.raises(UsageError, match="is the beginning of 2 digests") as raised:
        images.lookup(ARM64.digest[:11])
    assert (raised.value.code, raised.value.exit_status) == ("ambiguous-digest", 2)
    assert all(document.digest in raised.value.message for document in alike)
    assert digests(images.lookup(ARM64.digest[:40])) == [ARM64.digest]


def test_a_prefix_of_a_manifest_and_of_another_images_index_is_ambiguous_too(
    alike: tuple[Manifest, Manifest], store: Store, images: ImageStore
) -> None:
    first, top = alike
    pulled(store, "app:1", first)
    pulled(store, "app:2", AMD64, top=top)
    with pytest.raises(UsageError, match="is the beginning of 2 digests"):
        images.lookup(first.digest[:11])


def test_a_digest_of_an_image_with_several_names_finds_all_of_them(store: Store, images: ImageStore) -> None:
    for reference in ("app:1", "app:2", "other:1"):
        pulled(store, reference, AMD64)
    found = images.lookup(AMD64.digest[:20])
    assert [record.entry.reference.rpartition("/")[2] for record in found] == ["app:1", "app:2", "other:1"]
    assert len(distinct_entries([*found, *found])) == 3


# Choosing


@pytest.mark.parametrize(
    ("here", "wanted", "strict", "chosen"),
    [
        pytest.param(["linux/amd64", "linux/arm64"], "linux/arm64", False, 1, id="exactly"),
        pytest.param(["linux/arm64/v8"], "linux/arm64", True, 0, id="exactly, spelt otherwise"),
        pytest.param(["linux/arm64"], "linux/amd64", False, None, id="never for another"),
        pytest.param(["linux/arm/v6"], "linux/arm/v7", False, 0, id="a lesser one, if nothing else"),
        pytest.param(["linux/arm/v6"], "linux/arm/v7", True, None, id="no lesser one, if it was named"),
        pytest.param(["linux/arm/v7"], "linux/arm/v6", False, None, id="never a greater one"),
        pytest.param(["linux/386"], "linux/amd64", False, 0, id="32 bits on 64"),
        pytest.param(["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", False, 1, id="the best"),
        pytest.param([], "linux/amd64", False, None, id="none"),
    ],
)
def test_an_image_is_chosen_for_a_platform(
    here: list[str], wanted: str, *, strict: bool, chosen: int | None, store: Store, images: ImageStore
) -> None:
    documents = [image([BASE], platform=platform) for platform in here]
    for document in documents:
        pulled(store, "app:1", document)
    record = images.choose(records_of(store, images), Platform.parse(wanted), strict=strict)
    assert (record and record.digest) == (None if chosen is None else documents[chosen].digest)


def test_a_lesser_image_is_not_chosen_if_its_index_has_a_better_one_that_is_not_here(
    store: Store, images: ImageStore
) -> None:
    lesser, better = image([BASE], platform="linux/arm/v6"), image([TOP], platform="linux/arm/v7")
    wanted = Platform("linux", "arm", "v7")
    pulled(store, "app:1", lesser, top=index([lesser, better]))
    assert images.choose(records_of(store, images), wanted) is None
    pulled(store, "app:1", lesser, top=index([lesser]))
    assert images.choose(records_of(store, images), wanted) is not None


def test_a_lesser_image_is_not_chosen_if_nobody_knows_what_else_its_index_had(store: Store, images: ImageStore) -> None:
    lesser = image([BASE], platform="linux/arm/v6")
    top = index([lesser])
    pulled(store, "app:1", lesser, top=top)
    store.layout.blob(top.digest).unlink()
    assert images.choose(records_of(store, images), Platform("linux", "arm", "v7")) is None


def test_an_image_that_says_its_platform_only_in_its_configuration_is_chosen_by_that(
    store: Store, images: ImageStore
) -> None:
    put_blobs(store.layout.images, AMD64, ARM64)
    write_layout(store.layout.images, [listed_as(ARM64, "app:1"), listed_as(AMD64, "app:1")])
    record = images.choose(images.find(Reference.parse("app:1")), LINUX)
    assert record is not None
    assert record.digest == AMD64.digest


def test_a_damaged_image_is_not_chosen_and_keeps_nobody_from_another(store: Store, images: ImageStore) -> None:
    put_blobs(store.layout.images, AMD64, ARM64)
    write_layout(store.layout.images, [listed_as(ARM64, "app:1"), listed_as(AMD64, "app:1")])
    store.layout.blob(config_digest(ARM64)).write_bytes(b"{")
    found = images.find(Reference.parse("app:1"))
    record = images.choose(found, LINUX)
    assert record is not None
    assert record.digest == AMD64.digest
    assert images.choose(found, Platform("linux", "arm64")) is None


# Use


def test_a_use_is_noted_and_the_index_is_not_written_again(store: Store, images: ImageStore) -> None:
    pulled(store, "app:1", AMD64)
    os.utime(store.layout.blob(AMD64.digest), (0, 0))
    before = store.layout.index.stat()
    (record,) = records_of(store, images)
    used = images.used(images.image(record))
    after = store.layout.index.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert abs((datetime.now(UTC) - used.last_used_at).total_seconds()) < 60
    assert images.image(record) == used


READS_AND_WRITES = """
import sys
from pathlib import Path
from micropod_img.errors import MicropodError
from micropod_img.reference import Reference
from micropod_img.store.images import ImageStore
from micropod_img.store.removal import collect_garbage, remove_images
from micropod_img.store.store import Store
from micropod_img.store.tagging import tag_image
from micropod_img.store.usage import measure
store = Store(Path(sys.argv[1]))
images = ImageStore(store)
(record,) = images.find(Reference.parse("app:1"))
print(images.used(images.image(record)).ref, measure(store).image_bytes > 0)
for write in (
    lambda: tag_image(store, "app:1", Reference.parse("app:2")),
    lambda: remove_images(store, ["app:1"]),
    lambda: collect_garbage(store),
):
    try:
        write()
    except MicropodError as error:
        print(error.exit_status, error.code)
"""


def test_a_store_that_may_only_be_read_is_read_and_says_so_when_it_is_written(store: Store) -> None:
    pulled(store, "app:1", AMD64)
    (store.layout.staging / "garbage").mkdir()
    root = shlex.quote(str(store.layout.root))
    mounts = [f"--bind {root} {root}", f"-o remount,bind,ro {root}"]
    done = run_with_mounts(READS_AND_WRITES, store.layout.root, mounts=mounts)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["docker.io/library/app:1 True", *["10 read-only"] * 3]


def test_what_is_listed_is_what_a_manifest_says_and_not_its_annotations(store: Store, images: ImageStore) -> None:
    """Image records are never derived from annotations that an image itself carries."""
    lying = image(
        [BASE],
        annotations={
            "io.micropod.reference": "docker.io/library/evil:1",
            "org.opencontainers.image.ref.name": "docker.io/library/evil:1",
        },
        config={"config": {"Labels": {"io.micropod.reference": "docker.io/library/evil:1"}}},
    )
    assert json.loads(lying.content)["mediaType"] == OCI_MANIFEST
    pulled(store, "app:1", lying)
    assert only(store, images).ref == "docker.io/library/app:1"
    with pytest.raises(NotFoundError):
        images.lookup("evil:1")
