"""Layers that are fetched one by one, for someone who uses them meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.errors import MicropodError
from micropod_img.pull import retry
from micropod_img.pull.layer_fetch import FAST_ENOUGH, MOST_CONNECTIONS, NEARLY_ALL, may_begin
from tests.support import network_faults, stores
from tests.support.faults import BLOBS, altered, cut, on, silent
from tests.support.images import image, index
from tests.support.layers import MIB, layer, random_layer
from tests.support.network_faults import BIG, CASES, SMALL
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.models import Image, Layer
    from micropod_img.pull.keywords import Pulling
    from micropod_img.service import ImageService
    from tests.support.faults import Change
    from tests.support.network_faults import Case
    from tests.support.registries import Registry
    from tests.support.scripted import ScriptedRegistry

BOTTOM, MIDDLE, TOP = (random_layer(100_000, seed=seed) for seed in range(3))
IMAGE = image([BOTTOM, MIDDLE, TOP])


@dataclass
class Told:
    """What a pull told, in order: one word, and the digest of what it is about."""

    words: list[tuple[str, Digest]] = field(default_factory=list)
    layers: Sequence[Layer] = ()
    stop: Cancellation = field(default_factory=Cancellation)
    stop_at: Digest | None = None

    def expect(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def growing(self, digest: Digest, path: Path) -> None:
        self.words.append(("growing", digest))
        assert path.exists()

    def lost(self, digest: Digest) -> None:
        self.words.append(("lost", digest))

    def arrived(self, digest: Digest) -> None:
        self.words.append(("arrived", digest))
        if digest == self.stop_at:
            self.stop.cancel()

    def of(self, digest: Digest) -> list[str]:
        return [word for word, about in self.words if about == digest]


@pytest.fixture
def told() -> Told:
    return Told()


def pull(service: ImageService, name: str, told: Told, how: Pulling | None = None) -> Image:
    return service._pull_arriving(name, None, how or {}, told, told.stop)


@pytest.mark.parametrize(
    ("connections", "to_come", "rate", "begins"),
    [
        (0, 0, None, True),
        (1, 500 * MIB, None, False),  # nobody knows yet how fast it is
        (1, 500 * MIB, FAST_ENOUGH, False),
        (1, 500 * MIB, FAST_ENOUGH - 1, True),
        (1, NEARLY_ALL, FAST_ENOUGH, False),
        (1, NEARLY_ALL - 1, None, True),
        (MOST_CONNECTIONS - 1, 0, 0.0, True),
        (MOST_CONNECTIONS, 0, 0.0, False),
    ],
)
def test_a_fast_line_belongs_to_one_layer_and_a_slow_or_idle_one_is_shared(
    connections: int,
    to_come: int,
    rate: float | None,
    begins: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    assert may_begin(connections, to_come, rate) is begins


def test_an_image_arrives_whole_and_is_told_of_layer_by_layer(
    registry: Registry, repository: str, service: ImageService, told: Told
) -> None:
    name = push(registry, repository, "v1", IMAGE)
    pulled = pull(service, name, told)
    assert pulled.layers == (BOTTOM.digest, MIDDLE.digest, TOP.digest)
    assert [(one.digest, one.diff_id) for one in told.layers] == [(one.digest, one.diff_id) for one in IMAGE.layers]
    assert [about for word, about in told.words if word == "growing"] == [one.digest for one in IMAGE.layers]
    assert {about for word, about in told.words if word == "arrived"} == set(pulled.layers)
    assert "lost" not in [word for word, _ in told.words]


def test_what_is_here_arrives_at_once_and_is_not_asked_for(
    scripted: ScriptedRegistry, service: ImageService, told: Told
) -> None:
    service.pull_image(scripted.serve("some/base", "v1", image([BOTTOM, MIDDLE])))
    name = scripted.serve("some/image", "v1", index([IMAGE]))
    scripted.forget_requests()
    pull(service, name, told)
    assert [scripted.count(one.digest) for one in IMAGE.layers] == [0, 0, 1]
    assert told.of(BOTTOM.digest) == told.of(MIDDLE.digest) == ["arrived"]
    assert told.of(TOP.digest) == ["growing", "arrived"]


def test_a_layer_that_comes_twice_in_an_image_is_fetched_once(
    scripted: ScriptedRegistry, service: ImageService, told: Told
) -> None:
    name = scripted.serve("some/image", "v1", image([BOTTOM, TOP, BOTTOM]))
    assert pull(service, name, told).layers == (BOTTOM.digest, TOP.digest, BOTTOM.digest)
    assert scripted.count(BOTTOM.digest) == 1


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("fault", [cut(1000), altered()], ids=["cut", "wrong bytes"])
def test_a_layer_that_did_not_come_right_is_lost_and_comes_again(
    fault: Change, scripted: ScriptedRegistry, service: ImageService, told: Told
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(f"{BLOBS}{MIDDLE.digest}", fault, times=1),)
    pull(service, name, told)
    assert told.of(MIDDLE.digest) == ["growing", "lost", "growing", "arrived"]
    assert told.of(BOTTOM.digest)[-1] == "arrived"


def test_an_end_in_between_keeps_what_was_whole(scripted: ScriptedRegistry, service: ImageService, told: Told) -> None:
    big = random_layer(NEARLY_ALL + 100_000, seed=3)
    name = scripted.serve("some/image", "v1", image([BOTTOM, big, TOP]))
    scripted.faults = (on(f"{BLOBS}{big.digest}", silent()),)
    told.stop_at = BOTTOM.digest
    with pytest.raises(CancelledError):
        pull(service, name, told)
    assert BOTTOM.digest in stores.blobs(service.root)
    assert stores.listed(service.root) == []


def test_a_layer_of_another_size_than_its_manifest_says_is_refused(
    scripted: ScriptedRegistry, service: ImageService, told: Told
) -> None:
    small = layer({"a": b"1"})
    right = image([BOTTOM, small])
    wrong = right.content.replace(b'"size":%d}]' % small.size, b'"size":%d}]' % (small.size + 1))
    name = scripted.serve("some/image", "v1", right)
    scripted.serve_manifest("some/image", "v1", replace(right, content=wrong))
    with pytest.raises(MicropodError) as caught:
        pull(service, name, told)
    assert (caught.value.code, caught.value.exit_status) == ("size-mismatch", 7)
    assert told.of(small.digest)[-1] == "lost"


OF_LAYERS = {name: case for name, case in CASES.items() if case.layer_requests}


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("case", OF_LAYERS.values(), ids=OF_LAYERS.keys())
def test_a_fault_ends_as_it_does_where_all_layers_come_at_once(
    case: Case, scripted: ScriptedRegistry, service: ImageService, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = scripted.serve("some/image", "v1", network_faults.IMAGE)
    scripted.faults = case.faults(scripted)
    monkeypatch.setattr(retry, "ATTEMPTS", case.attempts)
    limits: Pulling = {"timeout": case.timeout, "stall_timeout": case.stall}
    started = time.monotonic()
    if case.code is None:
        assert pull(service, name, told, limits).layers == (SMALL.digest, BIG.digest)
    else:
        with pytest.raises(MicropodError) as caught:
            pull(service, name, told, limits)
        assert (caught.value.code, caught.value.exit_status) == (case.code, case.status), caught.value.detail
        assert stores.listed(service.root) == []
        assert BIG.digest not in stores.blobs(service.root)
    assert time.monotonic() - started < case.within
    assert scripted.count(BIG.digest) <= case.layer_requests
