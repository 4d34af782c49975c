from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.errors import IntegrityError
from micropod_img.store.removal import remove_images
from micropod_img.store.store import Store
from micropod_img.store.usage import measure
from tests.support.images import artifact, attestation, image, index
from tests.support.layers import Blob, random_layer
from tests.support.layouts import listed_as, pulled, put_blob, put_blobs, write_layout
from tests.support.publishing import publish

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.images import Manifest

BASE, APP_LAYER, TOOL_LAYER = (random_layer(10_000, seed=seed) for seed in range(3))
APP = image([BASE, APP_LAYER])
TOOL = image([BASE, TOOL_LAYER])
ARM64 = image([TOOL_LAYER], platform="linux/arm64")
GARBAGE = Blob("", bytes(777))


def own(document: Manifest) -> int:
    """Bytes of manifest and configuration."""
    assert document.config is not None
    return document.size + document.config.size


def rows(store: Store) -> list[tuple[str, int, int]]:
    """Reference, shared and own bytes of each image."""
    return [
        (one.image.ref.removeprefix("docker.io/library/"), one.shared_bytes, one.own_bytes)
        for one in measure(store).images
    ]


def test_an_empty_store_takes_nothing(store: Store) -> None:
    usage = measure(store)
    assert (usage.images, usage.image_bytes, usage.unreferenced_bytes, usage.staging_bytes) == ((), 0, 0, 0)


def test_a_store_that_was_not_made_takes_nothing(tmp_path: Path) -> None:
    assert measure(Store(tmp_path / "nowhere")).image_bytes == 0
    assert not (tmp_path / "nowhere").exists()


def test_an_image_alone_shares_nothing(store: Store) -> None:
    pulled(store, "app:1", APP)
    assert rows(store) == [("app:1", 0, own(APP) + BASE.size + APP_LAYER.size)]


def test_what_two_images_need_is_shared_and_counts_once(store: Store) -> None:
    pulled(store, "app:1", APP)
    pulled(store, "tool:1", TOOL)
    assert rows(store) == [
        ("app:1", BASE.size, own(APP) + APP_LAYER.size),
        ("tool:1", BASE.size, own(TOOL) + TOOL_LAYER.size),
    ]
    usage = measure(store)
    assert usage.image_bytes == own(APP) + own(TOOL) + BASE.size + APP_LAYER.size + TOOL_LAYER.size
    assert usage.unreferenced_bytes == 0


def test_two_names_of_one_image_share_nothing_with_each_other(store: Store) -> None:
    pulled(store, "app:1", APP)
    pulled(store, "app:2", APP)
    total = own(APP) + BASE.size + APP_LAYER.size
    assert rows(store) == [("app:1", 0, total), ("app:2", 0, total)]
    assert measure(store).image_bytes == total


def test_a_layer_that_an_image_has_twice_counts_once(store: Store) -> None:
    twice = image([BASE, BASE])
    pulled(store, "app:1", twice)
    assert rows(store) == [("app:1", 0, own(twice) + BASE.size)]


def test_platforms_of_a_whole_index_are_measured_one_by_one_and_the_index_with_the_whole(store: Store) -> None:
    both = index([TOOL, ARM64, attestation(TOOL)])
    pulled(store, "app:1", both)
    assert rows(store) == [
        ("app:1", TOOL_LAYER.size, own(TOOL) + BASE.size),
        ("app:1", TOOL_LAYER.size, own(ARM64)),
    ]
    usage = measure(store)
    assert usage.image_bytes == sum(blob.size for blob in (*both.blobs, *both.manifests, both))
    assert usage.unreferenced_bytes == 0


def test_what_no_image_needs_is_unreferenced(store: Store) -> None:
    pulled(store, "app:1", APP)
    put_blob(store.layout.images, GARBAGE)
    assert measure(store).unreferenced_bytes == GARBAGE.size


def test_what_pulls_are_about_to_bring_is_staging_and_what_they_hold_is_not(store: Store) -> None:
    pulled(store, "app:1", APP)
    with store.stage("pull") as staging:
        fsutil.make_directory(staging.blobs)
        store.blobs.link_into(staging.blobs, [BASE.digest])
        (staging.blobs / "half").write_bytes(bytes(1234))
        (staging.path / "link").symlink_to("/etc/passwd" * 3)
        link = os.lstat(staging.path / "link").st_size
        assert measure(store).staging_bytes == 1234 + link
    assert measure(store).staging_bytes == 0


def test_a_damaged_image_makes_the_whole_unknown(store: Store) -> None:
    pulled(store, "app:1", APP)
    store.layout.blob(APP.digest).unlink()
    with pytest.raises(IntegrityError):
        measure(store)


def test_what_other_tools_put_there_is_measured_too(store: Store) -> None:
    both, chart = index([APP, ARM64]), artifact()
    put_blobs(store.layout.images, APP, chart)
    put_blob(store.layout.images, both)
    write_layout(store.layout.images, [listed_as(both, "app:1"), listed_as(chart, "chart:1")])
    assert rows(store) == [("app:1", 0, own(APP) + BASE.size + APP_LAYER.size)]
    assert measure(store).unreferenced_bytes == 0


def test_images_and_places_that_come_and_go_meanwhile_are_no_damage(store: Store) -> None:
    pulled(store, "app:1", APP)
    done = threading.Event()
    errors: list[BaseException] = []

    def come_and_go() -> None:
        try:
            while not done.is_set():
                publish(store, "tool:1", TOOL)
                remove_images(store, ["tool:1"])
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            errors.append(error)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(150):
            assert "app:1" in [row[0] for row in rows(store)]
    finally:
        done.set()
        thread.join()
    assert errors == []
