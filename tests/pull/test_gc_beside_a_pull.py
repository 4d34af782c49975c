"""Garbage collection, and removal, at each phase of a pull: they take nothing that the pull has or will reuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.pull import early, image_pull
from micropod_img.store.store import Store
from tests.support import stores
from tests.support.images import image, index
from tests.support.layers import layer, random_layer

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.service import ImageService
    from tests.support.meanwhile import Meanwhile
    from tests.support.scripted import ScriptedRegistry

KIB = 1 << 10
SHARED = random_layer(100 * KIB, seed=1)
EARLIER = image([SHARED, layer({"etc/earlier": b"earlier"})])
WANTED = image([SHARED, layer({"etc/wanted": b"wanted"}), random_layer(50 * KIB, seed=2)])
IN_AN_INDEX = index([WANTED, image([SHARED], platform="linux/arm64")])

# What runs when a phase is over.
PHASES: dict[str, tuple[type, str]] = {
    "before the answer": (Store, "stage"),
    "before the early crane": (early.EarlyFetch, "__enter__"),
    "before the plan": (image_pull.ImagePull, "run"),
    "before the locks": (image_pull.ImagePull, "_lock_missing"),
    "before the fetch": (image_pull.ImagePull, "_bring"),
    "between layers and index": (Store, "index_transaction"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_what_a_pull_reuses_of_an_image_that_is_removed_meanwhile_is_there_in_the_end(
    phase: str,
    service: ImageService,
    another: ImageService,
    scripted: ScriptedRegistry,
    meanwhile: Meanwhile,
) -> None:
    earlier = scripted.serve("some/earlier", "1", EARLIER)
    service.pull_image(earlier)
    meanwhile.before(*PHASES[phase], lambda: (another.delete_image(earlier), another.collect_garbage()))

    pulled = service.pull_image(scripted.serve("some/image", "1", IN_AN_INDEX))

    assert meanwhile.happened
    assert pulled.digest == WANTED.digest
    assert [one.digest for one in service.list_images()] == [WANTED.digest]


@pytest.mark.parametrize("phase", ["before the fetch", "between layers and index"])
def test_what_a_pull_has_brought_is_no_garbage(
    phase: str, service: ImageService, another: ImageService, scripted: ScriptedRegistry, meanwhile: Meanwhile
) -> None:
    collected: list[str] = []
    meanwhile.before(*PHASES[phase], lambda: collected.extend(another.collect_garbage().removed))

    service.pull_image(scripted.serve("some/image", "1", WANTED))

    assert meanwhile.happened
    assert collected == []
    assert [scripted.count(one.digest) for one in WANTED.layers] == [1] * len(WANTED.layers)


def test_layers_of_a_pull_that_failed_are_kept_for_the_next_and_go_with_gc(
    service: ImageService, scripted: ScriptedRegistry, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("between layers and index")

    ref = scripted.serve("some/image", "1", WANTED)
    monkeypatch.setattr(Store, "index_transaction", fails)
    with pytest.raises(RuntimeError):
        service.pull_image(ref)
    monkeypatch.undo()

    assert {one.digest for one in WANTED.layers} <= stores.blobs(store_root)
    assert service.list_images() == []
    assert {*service.collect_garbage().removed} >= {one.digest for one in WANTED.layers}
    assert stores.blobs(store_root) == set()
