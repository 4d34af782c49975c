"""Garbage collection, and removal, at each phase of a pull: they take nothing that the pull has or will reuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.pull import early, image_pull
from micropod_img.service import ImageService
from micropod_img.store.store import Store
from tests.support import stores
from tests.support.images import image, index
from tests.support.layers import layer, random_layer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.images import Manifest
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


@pytest.fixture
def another(store_root: Path, config_file: Path) -> ImageService:
    """What another process does to the same store."""
    return ImageService(store_root, config_file)


class Before:
    """Lets something happen, once, just before a phase of a pull."""

    def __init__(self, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.phase = phase
        self.happened = False
        self._monkeypatch = monkeypatch

    def do(self, action: Callable[[], object]) -> None:
        owner, name = PHASES[self.phase]
        original = getattr(owner, name)

        def patched(*arguments: object, **keywords: object) -> object:
            if not self.happened:
                self.happened = True
                action()
            return original(*arguments, **keywords)

        self._monkeypatch.setattr(owner, name, patched)


@pytest.fixture(params=PHASES)
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Before:
    """Each phase in turn."""
    return Before(request.param, monkeypatch)


@pytest.mark.parametrize("document", [WANTED, IN_AN_INDEX], ids=["image", "index"])
def test_what_a_pull_reuses_of_an_image_that_is_removed_meanwhile_is_there_in_the_end(
    before: Before, document: Manifest, service: ImageService, another: ImageService, scripted: ScriptedRegistry
) -> None:
    earlier = scripted.serve("some/earlier", "1", EARLIER)
    service.pull_image(earlier)
    before.do(lambda: (another.delete_image(earlier), another.collect_garbage()))

    pulled = service.pull_image(scripted.serve("some/image", "1", document))

    assert before.happened
    assert pulled.digest == WANTED.digest
    assert [one.digest for one in service.list_images()] == [WANTED.digest]


@pytest.mark.parametrize("before", ["before the fetch", "between layers and index"], indirect=True)
def test_what_a_pull_has_brought_is_no_garbage(
    before: Before, service: ImageService, another: ImageService, scripted: ScriptedRegistry
) -> None:
    collected: list[str] = []
    before.do(lambda: collected.extend(another.collect_garbage().removed))

    service.pull_image(scripted.serve("some/image", "1", WANTED))

    assert before.happened
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
