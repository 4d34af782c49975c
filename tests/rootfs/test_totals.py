"""Limits over all layers of an image, on every route that unpacks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micropod_img import Limits
from micropod_img.errors import MicropodError, UnsafeError
from micropod_img.rootfs.totals import ImageTotals, keep_totals
from tests.rootfs.gate_checks import check
from tests.rootfs.local_images import LocalService
from tests.rootfs.tar_layers import END, file, header
from tests.rootfs.unpacking import as_root
from tests.support.images import image
from tests.support.layers import Entry, layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TWO_LAYERS = [Entry("a", b"1" * 600), Entry("b")], [Entry("c", b"2" * 600)]
OVER = [
    (Limits(max_size=1000), "is beyond the 1000 bytes that an image may have", "--max-size"),
    (Limits(max_entries=2), "is beyond the 2 entries that an image may have", "--max-entries"),
]


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    made = LocalService(store_root)
    yield made
    made.end()


def refused(service: LocalService, ref: str, route: str, limits: Limits, place: Path) -> UnsafeError:
    calls: dict[str, Callable[[], object]] = {
        "unpack": lambda: service.unpack(ref, place / "dest", policy="never", limits=limits),
        "pod": lambda: service.create_pod(ref, policy="never", limits=limits),
        "mount": lambda: service.mount_image(ref, place, policy="never", limits=limits),
    }
    with pytest.raises(UnsafeError) as caught:
        calls[route]()
    return caught.value


@as_root
@pytest.mark.parametrize("route", ["unpack", "pod", "mount"])
@pytest.mark.parametrize("over", OVER, ids=["size", "entries"])
def test_layers_that_are_over_a_limit_together_are_refused_by_every_route_and_each_time(
    over: tuple[Limits, str, str], route: str, service: LocalService, tmp_path: Path
) -> None:
    limits, said, option = over
    ref = service.put_layers(*TWO_LAYERS)
    for _ in range(2):  # the second time the first layer may be there as a snapshot
        error = refused(service, ref, route, limits, tmp_path)
        assert said in error.message
        assert error.hint == f"raise {option} if you trust this image"
    service.unpack(ref, tmp_path / "dest", policy="never", limits=Limits(max_size=1200, max_entries=3))


@as_root
def test_snapshots_that_are_all_here_are_used_whatever_the_limits_say(service: LocalService) -> None:
    ref = service.put_layers(*TWO_LAYERS)
    service.create_pod(ref, policy="never")
    service.create_pod(ref, policy="never", limits=Limits(max_size=1, max_entries=1))


@as_root
def test_snapshots_that_are_here_count_for_an_image_that_adds_to_them(service: LocalService, tmp_path: Path) -> None:
    service.create_pod(service.put_layers(TWO_LAYERS[0]), policy="never")
    error = refused(service, service.put_layers(*TWO_LAYERS), "pod", Limits(max_size=1000), tmp_path)
    assert "entry 'c'" in error.message


@as_root
@pytest.mark.parametrize("route", ["unpack", "pod"])
def test_a_layer_counts_as_often_as_the_image_has_it(route: str, service: LocalService, tmp_path: Path) -> None:
    ref = service.put_layers(TWO_LAYERS[0], TWO_LAYERS[0])
    error = refused(service, ref, route, Limits(max_size=1000), tmp_path)
    assert "repeated, is beyond the 1000 bytes that an image may have" in error.message
    assert error.hint == "raise --max-size if you trust this image"


@as_root
@pytest.mark.parametrize("route", ["unpack", "pod", "mount"])
def test_more_layers_than_can_be_put_on_one_another_are_refused(
    route: str, service: LocalService, tmp_path: Path
) -> None:
    ref = service.put(image([layer({})] * 501))
    assert "has 501 layers, and an image may have 500" in refused(service, ref, route, Limits(), tmp_path).message


@as_root
def test_the_limits_of_the_configuration_hold_unless_the_call_has_its_own(store_root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("max-entries = 1\n")
    service = LocalService(store_root, tmp_path / "config.toml")
    ref = service.put_layers(*TWO_LAYERS)
    with pytest.raises(UnsafeError, match="beyond the 1 entries"):
        service.unpack(ref, tmp_path / "dest", policy="never")
    service.unpack(ref, tmp_path / "dest", policy="never", limits=Limits())


def test_totals_of_several_threads_miss_nothing() -> None:
    totals = ImageTotals()
    threads = [threading.Thread(target=lambda: [totals.add(1, 3) for _ in range(5000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals.add(0, 0) == (20_000, 60_000)


def test_layers_that_are_looked_at_side_by_side_are_over_a_limit_together_at_the_end_if_not_before() -> None:
    archive = b"".join(header(b"f%d" % number) for number in range(40)) + END
    totals = ImageTotals()
    entries = totals.add(0, 0)[0]
    check(archive, Limits(max_entries=80), totals)
    assert totals.add(0, 0)[0] == entries + 40
    check(archive, Limits(max_entries=80), totals)
    with pytest.raises(UnsafeError, match="entry 'f0' is beyond the 80 entries"):
        check(archive, Limits(max_entries=80), totals)


def test_a_layer_whose_reading_failed_does_not_count() -> None:
    totals = ImageTotals()
    archive = b"".join(header(b"f%d" % number) for number in range(200))
    with pytest.raises(MicropodError):
        check(archive + header(b"../x") + END, None, totals)
    with pytest.raises(MicropodError):
        check(archive + b"cut", None, totals)
    assert totals.add(0, 0) == (0, 0)


@given(sizes=st.lists(st.integers(0, 3), min_size=1, max_size=150), limit=st.integers(1, 200))
@settings(deadline=None, max_examples=100)
def test_a_limit_is_met_to_the_byte(sizes: list[int], limit: int) -> None:
    archive = b"".join(file(b"f%d" % number, bytes(size)) for number, size in enumerate(sizes)) + END
    over = next((n for n in range(len(sizes)) if sum(sizes[: n + 1]) > limit), None)
    if over is None:
        assert check(archive, Limits(max_size=limit, metadata_size=1 << 20)).unpacked_size == sum(sizes)
    else:
        with pytest.raises(UnsafeError, match=f"entry 'f{over}' is beyond the {limit} bytes"):
            check(archive, Limits(max_size=limit, metadata_size=1 << 20))


@pytest.mark.parametrize("content", [None, b"", b"1", b"1 x", b"-1 2", b"1 2 3", b"\xff 1", b"9" * 5000 + b" 1"])
def test_a_snapshot_without_a_count_that_can_be_read_counts_nothing(content: bytes | None, tmp_path: Path) -> None:
    for name in ("counted", "other"):
        (tmp_path / name).mkdir()
    keep_totals(tmp_path / "counted", 5, 70)
    if content is not None:
        (tmp_path / "other/totals").write_bytes(content)
    totals = ImageTotals()
    totals.add_snapshots([tmp_path / "counted", tmp_path / "other", tmp_path / "missing"])
    assert totals.add(0, 0) == (5, 70)
