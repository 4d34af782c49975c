"""For how long a pull keeps others from what it fetches: no longer than it takes until it is here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from micropod_img.pull import image_pull
from micropod_img.service import ImageService
from tests.support.faults import BLOBS, dripping, on
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.support.scripted import ScriptedRegistry

KIB = 1 << 10
SHARED = random_layer(200 * KIB, seed=1)
ONE, OTHER = (image([SHARED, layer({"etc/name": name})]) for name in (b"one", b"other"))


def locked(service: ImageService) -> list[str]:
    """Return which blobs somebody fetches just now."""
    return [path.name for path in service.root.glob("locks/blob-*")]


def test_what_was_fetched_is_not_locked_while_it_is_listed(
    service: ImageService, scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    publish: Callable[..., object] = vars(image_pull)["publish"]

    def watched(*arguments: object, **keywords: object) -> object:
        seen.append(locked(service))
        return publish(*arguments, **keywords)

    monkeypatch.setattr(image_pull, "publish", watched)
    service.pull_image(scripted.serve("some/one", "1", ONE))

    assert seen == [[]]


def test_what_another_pull_has_brought_is_not_locked_by_who_waited_for_it(
    service: ImageService,
    store_root: Path,
    config_file: Path,
    scripted: ScriptedRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []
    refs = scripted.serve("some/one", "1", ONE), scripted.serve("some/other", "1", OTHER)
    scripted.faults = (on(f"{BLOBS}{SHARED.digest}", dripping(150 * KIB)),)
    bring = image_pull.ImagePull._bring

    def watched(pull: image_pull.ImagePull, *arguments: object) -> None:
        seen.append(locked(service))
        bring(pull, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(image_pull.ImagePull, "_bring", watched)
    shared = f"blob-{SHARED.digest.removeprefix('sha256:')}.lock"
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(ImageService(store_root, config_file).pull_image, refs[0])
        wait_until(lambda: shared in locked(service))
        assert service.pull_image(refs[1]).digest == OTHER.digest
        assert first.result().digest == ONE.digest

    assert [shared in names for names in seen] == [True, False]
