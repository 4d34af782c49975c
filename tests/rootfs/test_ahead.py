"""Layers are unpacked while later ones are still on their way, and everything else is as if they were not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.digest import hex_of
from micropod_img.errors import MicropodError, UnsafeError
from micropod_img.progress import silent as silent_sink
from micropod_img.pull import retry
from micropod_img.rootfs.ahead import UnpackingAhead
from micropod_img.rootfs.chain import chain_ids
from micropod_img.rootfs.snapshots import Call
from micropod_img.rootfs.umoci import UnpackRoot
from micropod_img.store.store import Store
from tests.rootfs.local_images import LocalService, gzip_layer
from tests.rootfs.tar_layers import file, header, tree
from tests.rootfs.unpacking import as_root
from tests.support.faults import BLOBS, MANIFESTS, altered, cut, on, silent, stalled
from tests.support.images import image
from tests.support.layers import Entry, random_layer
from tests.support.scripted import Response, ScriptedRegistry, oci_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from micropod_img.rootfs.layer_blobs import LayerBlob, PassingBlob
    from tests.support.faults import Change
    from tests.support.layers import Layer
    from tests.support.scripted import Fault, RecordedRequest

pytestmark = as_root

SECONDS = 30
CREATE = "import sys; from micropod_img import ImageService; ImageService(sys.argv[1]).create_pod(sys.argv[2])"

# Larger than what is still to come when the next layer is asked for.
BOTTOM = random_layer(9 << 20, seed=1)
MIDDLE = gzip_layer([Entry("middle", b"m" * 1000)])
TOP = gzip_layer([Entry("top", b"t" * 1000), Entry(".wh.middle")])
IMAGE = image([BOTTOM, MIDDLE, TOP])
# Large enough that the gate lets the first of it pass before it has seen the last.
FILES = 9
MANY = gzip_layer([Entry(f"many-{number}", os.urandom(1 << 20)) for number in range(FILES)])
REFUSED = gzip_layer([header(b".wh..", b"0")])


@pytest.fixture
def service(store_root: Path) -> Iterator[LocalService]:
    made = LocalService(store_root)
    made.driver_choice()
    yield made
    made.end()
    assert list((store_root / "tmp").iterdir()) == []


def snapshot(root: Path, *layers: Layer) -> Path:
    return root / "snapshots" / hex_of(chain_ids(layer.diff_id for layer in layers)[-1])


def held_back_until(condition: Callable[[], bool], digest: str) -> Fault:
    """Answer for a blob only when something has happened; else it is an error."""

    def fault(request: RecordedRequest, right: Response) -> Response:
        deadline = time.monotonic() + SECONDS
        while re.search(f"{BLOBS}{digest}", request.path) and not condition():
            if time.monotonic() > deadline:
                return oci_error(404, "BLOB_UNKNOWN", "nothing was unpacked meanwhile")
            time.sleep(0.01)
        return right

    return fault


def test_a_layer_is_a_snapshot_before_the_last_one_has_arrived(
    scripted: ScriptedRegistry, service: LocalService, store_root: Path
) -> None:
    first, second = snapshot(store_root, BOTTOM), snapshot(store_root, BOTTOM, MIDDLE)
    scripted.faults = (held_back_until(lambda: first.exists() and second.exists(), TOP.digest),)
    pod = service.create_pod(scripted.serve("some/image", "v1", IMAGE))
    assert set(tree(pod.rootfs)) == {b"random-1", b"top"}


def test_an_image_that_is_mounted_is_unpacked_while_it_arrives_too(
    scripted: ScriptedRegistry, service: LocalService, store_root: Path, tmp_path: Path
) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    scripted.faults = (held_back_until(snapshot(store_root, BOTTOM).exists, TOP.digest),)
    service.mount_image(scripted.serve("some/image", "v1", IMAGE), place)
    try:
        assert set(tree(place)) == {b"random-1", b"top"}
    finally:
        service.unmount_image(place)


def test_a_second_image_on_the_same_base_fetches_and_unpacks_only_its_own_layers(
    scripted: ScriptedRegistry, service: LocalService, unpacked: list[str]
) -> None:
    service.create_pod(scripted.serve("some/base", "v1", image([BOTTOM, MIDDLE])))
    scripted.forget_requests()
    unpacked.clear()
    service.create_pod(scripted.serve("some/image", "v1", IMAGE))
    assert [scripted.count(one.digest) for one in IMAGE.layers] == [0, 0, 1]
    assert unpacked == [TOP.digest]


def test_a_large_layer_is_unpacked_while_it_arrives_and_is_no_snapshot_before_all_of_it_is_here(
    scripted: ScriptedRegistry, service: LocalService, store_root: Path
) -> None:
    scripted.faults = (on(f"{BLOBS}{MANY.digest}", stalled(MANY.size - 10)),)
    seen: list[bool] = []

    def release() -> None:
        deadline = time.monotonic() + SECONDS
        while not list((store_root / "tmp").glob("snapshot-*/snapshot/fs/many-0")) and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(time.monotonic() < deadline)
        seen.append(not snapshot(store_root, MANY).exists())
        scripted.released.set()

    watching = threading.Thread(target=release)
    watching.start()
    pod = service.create_pod(scripted.serve("some/image", "v1", image([MANY, TOP])))
    watching.join()
    assert seen == [True, True]
    assert set(tree(pod.rootfs)) == {b"top", *(f"many-{number}".encode() for number in range(FILES))}


def test_a_large_layer_that_stalls_in_the_middle_ends_in_time_and_leaves_nothing(
    scripted: ScriptedRegistry, service: LocalService, store_root: Path
) -> None:
    scripted.faults = (on(f"{BLOBS}{MANY.digest}", stalled(MANY.size - 10)),)
    with pytest.raises(MicropodError) as caught:
        service.create_pod(scripted.serve("some/image", "v1", image([MANY, TOP])), stall_timeout=1, timeout=2)
    assert caught.value.exit_status == 5
    assert not snapshot(store_root, MANY).exists()


@pytest.mark.parametrize("change", [altered(), cut(5 << 20)], ids=["altered", "cut off"])
def test_a_large_layer_that_comes_wrong_is_unpacked_once_more_when_it_comes_right(
    change: Change, scripted: ScriptedRegistry, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.01)
    scripted.faults = (on(f"{BLOBS}{MANY.digest}", change, times=1),)
    pod = service.create_pod(scripted.serve("some/image", "v1", image([MANY, TOP])))
    assert len(tree(pod.rootfs)) == FILES + 1


def test_of_a_large_layer_nothing_is_unpacked_that_follows_what_the_gate_refuses(
    scripted: ScriptedRegistry, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: set[str] = set()
    real = UnpackRoot.unpack_layer

    def looking(self: UnpackRoot, layer: LayerBlob | PassingBlob, **arguments: object) -> None:
        try:
            real(self, layer, **arguments)  # type: ignore[arg-type]  # its only one is handed on as it is
        finally:
            names.update(path.name for path in self.rootfs.iterdir())

    monkeypatch.setattr(UnpackRoot, "unpack_layer", looking)
    archive = b"".join(
        [
            *(file(f"before-{number}".encode(), os.urandom(1 << 20)) for number in range(5)),
            header(b".wh..", b"0"),
            *(file(f"behind-{number}".encode(), os.urandom(1 << 20)) for number in range(5)),
        ]
    )
    with pytest.raises(UnsafeError):
        service.create_pod(scripted.serve("some/image", "v1", image([gzip_layer([archive])])))
    assert not any(name.startswith("behind") for name in names)


def test_a_layer_that_is_refused_ends_the_download_of_those_above(
    scripted: ScriptedRegistry, service: LocalService, store_root: Path
) -> None:
    big = random_layer(9 << 20, seed=2)
    scripted.faults = (on(f"{BLOBS}{big.digest}", stalled(100)),)
    with pytest.raises(UnsafeError):
        service.create_pod(scripted.serve("some/image", "v1", image([MIDDLE, REFUSED, big])))
    assert snapshot(store_root, MIDDLE).exists()
    assert not service.list_images()
    assert not service.list_pods()


@pytest.mark.parametrize("layers", [[BOTTOM, REFUSED], [REFUSED, BOTTOM]], ids=["above", "below"])
def test_bytes_that_are_not_the_layers_are_no_verdict(
    layers: list[Layer], scripted: ScriptedRegistry, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.01)
    good = image([TOP if one is REFUSED else one for one in layers])
    name = scripted.serve("some/image", "v1", good)
    scripted.faults = (on(f"{BLOBS}{TOP.digest}", lambda right: replace(right, body=REFUSED.content), times=1),)
    assert b"top" in tree(service.create_pod(name).rootfs)


def test_bytes_that_stay_wrong_are_an_error_of_integrity(
    scripted: ScriptedRegistry, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.01)
    scripted.faults = (on(f"{BLOBS}{MIDDLE.digest}", altered()),)
    with pytest.raises(MicropodError) as caught:
        service.create_pod(scripted.serve("some/image", "v1", IMAGE))
    assert (caught.value.code, caught.value.exit_status) == ("digest-mismatch", 7)


def test_what_was_unpacked_of_a_pull_that_failed_is_used_later_or_collected(
    scripted: ScriptedRegistry, service: LocalService, store_root: Path, unpacked: list[str]
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    here = snapshot(store_root, BOTTOM)
    scripted.faults = (
        held_back_until(here.exists, TOP.digest),
        on(f"{BLOBS}{TOP.digest}", oci_error(404, "BLOB_UNKNOWN")),
    )
    with pytest.raises(MicropodError) as caught:
        service.create_pod(name)
    assert (caught.value.code, caught.value.exit_status) == ("blob-unknown", 3)
    scripted.faults = ()
    service.create_pod(name)
    assert unpacked.count(BOTTOM.digest) == 1
    service.end()
    service.delete_image(name)
    assert not here.exists()


@pytest.mark.usefixtures("service")  # which unmounts the pod
def test_the_next_place_to_ask_may_have_another_image(
    scripted: ScriptedRegistry, store_root: Path, tmp_path: Path
) -> None:
    registries = tmp_path / "registries.conf"
    registries.write_text(
        f'[[registry]]\nlocation = "registry.invalid"\n'
        f'[[registry.mirror]]\nlocation = "{scripted.host}/old"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{scripted.host}/new"\ninsecure = true\n'
    )
    config = tmp_path / "config.toml"
    config.write_text(f'registries-conf = "{registries}"\n')
    scripted.serve("old/app", "v1", image([BOTTOM, MIDDLE]))
    scripted.serve("new/app", "v1", image([BOTTOM, TOP]))
    scripted.faults = (on(f"/old/app{BLOBS}{MIDDLE.digest}", oci_error(404, "BLOB_UNKNOWN")),)
    pod = LocalService(store_root, config).create_pod("registry.invalid/app:v1")
    assert set(tree(pod.rootfs)) == {b"random-1", b"top"}
    assert not snapshot(store_root, BOTTOM, MIDDLE).exists()


def test_a_process_that_is_killed_while_it_pulls_and_unpacks_leaves_nothing(
    scripted: ScriptedRegistry, service: LocalService, store_root: Path
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(f"{BLOBS}{TOP.digest}", silent()),)
    with subprocess.Popen([sys.executable, "-c", CREATE, str(store_root), name]) as child:
        deadline = time.monotonic() + SECONDS
        while not snapshot(store_root, BOTTOM).exists():
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    scripted.faults = ()
    assert not service.list_images()
    assert not service.list_pods()
    assert b"top" in tree(service.create_pod(name).rootfs)
    service.collect_garbage()


def test_an_answer_without_an_image_begins_nothing(scripted: ScriptedRegistry, service: LocalService) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(MANIFESTS, oci_error(404, "MANIFEST_UNKNOWN")),)
    with pytest.raises(MicropodError) as caught:
        service.create_pod(name)
    assert caught.value.exit_status == 3


def test_a_refusal_of_an_image_that_was_given_up_is_not_forgotten(store_root: Path) -> None:
    """It has called off the pull, which can say no more than that."""

    refusals = iter([UnsafeError("refused")])

    def refusing_once(*_: object) -> None:
        for refusal in refusals:
            raise refusal

    store, pull = Store(store_root), Cancellation()
    store.prepare()
    with UnpackingAhead(store, refusing_once, Call("local/app:1", silent_sink, Cancellation()), pull) as ahead:
        ahead.expect([])
        with pytest.raises(CancelledError):
            pull.sleep(SECONDS)
        ahead.expect([])
        ahead.finish()
        with pytest.raises(UnsafeError):
            ahead.raise_error()
