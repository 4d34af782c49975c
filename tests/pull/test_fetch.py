"""The watch over crane: what it tells, what it takes for a stall, whom crane may ask, what is left on the disk."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.digest import hex_of
from micropod_img.errors import DiskError, MicropodError
from micropod_img.oci import Descriptor
from micropod_img.progress import FetchStarted, Finished, LayerProgress, Retrying
from micropod_img.pull.options import PullOptions
from micropod_img.pull.watch import LayerWatch
from micropod_img.service import ImageService
from micropod_img.store.store import Store
from tests.support import stores
from tests.support.faults import BLOBS, dripping, on, stalled
from tests.support.images import Manifest, image, index
from tests.support.layers import layer, random_layer
from tests.support.mounts import run_with_mounts
from tests.support.processes import run
from tests.support.scripted import ScriptedRegistry, scripted_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from micropod_img.progress import Event
    from tests.support.scripted import Fault, RecordedRequest, Response

KIB = 1 << 10
SMALL = layer({"etc/motd": b"welcome\n"})
TOP = layer({"etc/issue": b"top\n"})
BIG = random_layer(400 * KIB)
IMAGE = image([SMALL, BIG])
OF_BIG = f"{BLOBS}{BIG.digest}"


def of_kind(events: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def test_progress_grows_to_the_size_of_each_layer_and_ends_there(
    scripted: ScriptedRegistry, service: ImageService, events: list[Event]
) -> None:
    scripted.faults = (on(OF_BIG, dripping(800 * KIB)),)
    ref = scripted.serve("some/image", "v1", IMAGE)
    service.pull_image(ref, progress=events.append)
    (started,) = (event for event in events if isinstance(event, FetchStarted))
    assert [(one.digest, one.size, one.present) for one in started.layers] == [
        (SMALL.digest, SMALL.size, False),
        (BIG.digest, BIG.size, False),
    ]
    steps = [event for event in events if isinstance(event, LayerProgress)]
    for one in (SMALL, BIG):
        received = [step.received for step in steps if step.digest == one.digest]
        assert received == sorted(received)
        assert received.count(one.size) == 1
        assert {step.size for step in steps if step.digest == one.digest} == {one.size}
    assert len([step for step in steps if step.digest == BIG.digest]) > 3
    assert isinstance(events[-1], Finished)


@pytest.fixture
def arriving(store_root: Path, events: list[Event]) -> Iterator[tuple[LayerWatch, Path]]:
    """The watch over a layer, and the file in which all of its bytes are, as crane names it before it checked them."""
    store = Store(store_root)
    store.prepare()
    descriptor = Descriptor.model_validate({"digest": BIG.digest, "size": BIG.size})
    with store.stage("test") as staging:
        staging.blobs.mkdir(parents=True)
        path = staging.blobs / f"{hex_of(BIG.digest)}123"
        path.write_bytes(BIG.content)
        blobs, layers = store.blobs, [descriptor]
        yield LayerWatch(ref="app", directory=path.parent, blobs=blobs, layers=layers, sink=events.append), path


def test_a_layer_is_told_to_be_whole_when_crane_has_found_it_right(
    arriving: tuple[LayerWatch, Path], events: list[Event]
) -> None:
    watch, path = arriving
    assert watch.look()
    assert [event.received for event in events if isinstance(event, LayerProgress)] == [BIG.size - 1]
    path.rename(path.with_name(hex_of(BIG.digest)))
    watch.look()
    assert events[1:] == [LayerProgress("app", BIG.digest, BIG.size, BIG.size)]


def test_a_disk_that_is_full_when_bytes_go_to_it_is_said_to_be(
    arriving: tuple[LayerWatch, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(fsutil, "fsync_file", full)
    with pytest.raises(DiskError, match="the disk is full"):
        arriving[0].look()


def test_a_layer_that_is_here_is_told_to_be_and_not_told_to_arrive(
    scripted: ScriptedRegistry, service: ImageService, events: list[Event]
) -> None:
    service.pull_image(scripted.serve("some/image", "v1", IMAGE))
    service.pull_image(scripted.serve("some/image", "v2", image([SMALL, BIG, TOP])), progress=events.append)
    (started,) = (event for event in events if isinstance(event, FetchStarted))
    assert [one.present for one in started.layers] == [True, True, False]
    assert {event.digest for event in events if isinstance(event, LayerProgress)} == {TOP.digest}


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_a_second_attempt_is_watched_by_its_own_bytes(
    scripted: ScriptedRegistry, service: ImageService, events: list[Event]
) -> None:
    """What the first attempt left must not hide that the second one gets on, more slowly than the stall limit."""
    ref = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(OF_BIG, dripping(400 * KIB)), on(OF_BIG, stalled(380 * KIB), times=1))
    pulled = service.pull_image(ref, stall_timeout=0.5, progress=events.append)
    assert pulled.digest == IMAGE.digest
    assert len(of_kind(events, Retrying)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("indexed", [False, True])
def test_a_damaged_layer_does_not_hide_that_the_new_one_gets_on(
    indexed: bool,  # noqa: FBT001 - a parameter of the table
    scripted: ScriptedRegistry,
    service: ImageService,
    store_root: Path,
    events: list[Event],
) -> None:
    service.pull_image(scripted.serve("some/image", "v0", image([TOP])))
    stores.blob_path(store_root, BIG.digest).write_bytes(BIG.content[:-1])
    scripted.faults = (on(OF_BIG, dripping(400 * KIB)),)
    damaged = image([SMALL, BIG, TOP])
    ref = scripted.serve("some/image", "v2", index([damaged]) if indexed else damaged)
    service.pull_image(ref, stall_timeout=0.5, progress=events.append)
    assert of_kind(events, Retrying) == []


@pytest.mark.usefixtures("_impatient")
def test_a_stall_is_noticed_in_time_and_called_one(
    scripted: ScriptedRegistry, service: ImageService, events: list[Event], store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(OF_BIG, stalled(100 * KIB)),)
    told: list[float] = []

    def sink(event: Event) -> None:
        events.append(event)
        if isinstance(event, FetchStarted | Retrying):
            told.append(time.monotonic())

    with pytest.raises(MicropodError, match=r"sent nothing for 0\.4 s") as caught:
        service.pull_image(ref, stall_timeout=0.4, progress=sink)
    assert (caught.value.code, caught.value.exit_status, caught.value.retryable) == ("stalled", 5, True)
    assert told[1] - told[0] < 0.4 + 1
    assert SMALL.digest in stores.blobs(store_root)


def test_the_time_for_all_of_it_ends_a_pull_that_gets_on(
    scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (on(OF_BIG, dripping(40 * KIB)),)
    started = time.monotonic()
    with pytest.raises(MicropodError, match="did not answer within 3 s") as caught:
        service.pull_image(ref, timeout=3, stall_timeout=100)
    assert time.monotonic() - started < 3 + 1.5
    assert (caught.value.code, caught.value.exit_status) == ("timeout", 5)
    assert "--timeout" in (caught.value.hint or "")
    assert SMALL.digest in stores.blobs(store_root)


FOREIGN_KINDS = ("OCI", "Docker", "an ordinary media type", "an escaped key", "a key in upper case")


@pytest.fixture
def elsewhere() -> Iterator[ScriptedRegistry]:
    """Who would be asked for foreign layers."""
    with scripted_registry() as server:
        yield server


def address(elsewhere: ScriptedRegistry) -> str:
    # Crane itself asks nobody at a private address, but it looks at addresses only and not at names.
    return f"http://localhost:{elsewhere.host.rpartition(':')[2]}/layer"


def foreign_image(kind: str, elsewhere: ScriptedRegistry, platform: str) -> Manifest:
    files = {"foreign": kind.encode()}
    foreign = layer(files, docker=kind == "Docker", urls=[address(elsewhere)])
    if kind not in {"OCI", "Docker"}:
        foreign = replace(foreign, media_type=SMALL.media_type)
    made = image([SMALL, foreign], docker=kind == "Docker", platform=platform)
    content = made.content
    if kind == "an escaped key":
        content = content.replace(b'"urls"', b'"\\u0075rls"')
    if kind == "a key in upper case":
        content = content.replace(b'"urls"', b'"URLs"')
    return replace(made, content=content)


def slowly(pattern: str, *, seconds: float = 0.3, if_asked: Callable[[], bool] = lambda: True) -> Fault:
    """Let the answer to what we need before we know better wait: crane alone would be well ahead by then."""

    def fault(request: RecordedRequest, right: Response) -> Response:
        if pattern in request.path and if_asked():
            time.sleep(seconds)
        return right

    return fault


def test_crane_alone_would_ask_elsewhere(
    scripted: ScriptedRegistry, elsewhere: ScriptedRegistry, crane: Path, tmp_path: Path
) -> None:
    ref = scripted.serve("some/image", "v1", foreign_image("OCI", elsewhere, "linux/amd64"))
    run(crane, "pull", "--format=oci", ref, tmp_path / "pulled")
    assert elsewhere.count("/layer") == 1


@pytest.mark.parametrize("kind", FOREIGN_KINDS)
def test_nobody_else_is_asked_for_a_layer_that_the_registry_need_not_have(
    kind: str, scripted: ScriptedRegistry, elsewhere: ScriptedRegistry, service: ImageService
) -> None:
    made = foreign_image(kind, elsewhere, "linux/amd64")
    ref = scripted.serve("some/image", "v1", made)
    assert made.config is not None
    scripted.faults = (slowly(made.config.digest),)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref)
    assert caught.value.exit_status in {8, 12}
    assert elsewhere.requests == ()


@pytest.mark.parametrize("kind", FOREIGN_KINDS)
def test_neither_is_anybody_for_an_image_of_an_index(
    kind: str, scripted: ScriptedRegistry, elsewhere: ScriptedRegistry, service: ImageService
) -> None:
    made = foreign_image(kind, elsewhere, "linux/amd64")
    ref = scripted.serve("some/image", "v1", index([made, image([TOP], platform="linux/arm64")]))
    manifest = f"/manifests/{made.digest}"
    # Should crane have begun before the manifest is read here, that reading would come late.
    scripted.faults = (slowly(manifest, if_asked=lambda: scripted.count(manifest) > 1),)
    (failure,) = service.pull_images([ref]).failures
    assert failure.error.exit_status in {8, 12}
    assert elsewhere.requests == ()


@pytest.mark.parametrize("options", [PullOptions(), PullOptions(all_platforms=True)], ids=["one", "all"])
def test_the_image_of_an_index_is_asked_for_once_besides_by_crane(
    options: PullOptions, scripted: ScriptedRegistry, service: ImageService
) -> None:
    made = image([SMALL, TOP])
    ref = scripted.serve("some/image", "v1", index([made]))
    assert service.pull_images([ref], options).images
    assert scripted.count(f"/manifests/{made.digest}") == 2


@pytest.mark.parametrize("kind", ["OCI", "Docker"])
def test_nobody_else_is_asked_for_the_layers_of_windows(
    kind: str, scripted: ScriptedRegistry, elsewhere: ScriptedRegistry, service: ImageService
) -> None:
    made = foreign_image(kind, elsewhere, "windows/amd64")
    ref = scripted.serve("some/image", "v1", index([image([TOP]), made], docker=kind == "Docker"))
    assert made.config is not None
    scripted.faults = (slowly(made.config.digest),)
    with pytest.raises(MicropodError, match=rf"has the foreign layer {made.layers[1].digest}") as caught:
        service.pull_image(ref, platform="windows/amd64")
    assert (caught.value.code, caught.value.exit_status) == ("foreign-layer", 8)
    assert address(elsewhere) in (caught.value.hint or "")
    assert elsewhere.requests == ()


@pytest.mark.parametrize("kind", ["OCI", "Docker", "an ordinary media type"])
def test_a_foreign_layer_that_the_registry_has_comes_from_there(
    kind: str, scripted: ScriptedRegistry, elsewhere: ScriptedRegistry, service: ImageService
) -> None:
    made = foreign_image(kind, elsewhere, "linux/amd64")
    pulled = service.pull_image(scripted.serve("some/image", "v1", made, foreign_layers=True))
    assert pulled.layers == tuple(one.digest for one in made.layers)
    assert elsewhere.requests == ()


PULL_ONTO_A_SMALL_DISK = """
import sys
from micropod_img.service import ImageService
from micropod_img.errors import MicropodError
root, config, ref = sys.argv[1:]
try:
    ImageService(root, config).pull_image(ref)
except MicropodError as error:
    print(error.exit_status, error.code, error.message)
"""


def test_what_cannot_fit_on_the_disk_is_not_fetched(
    scripted: ScriptedRegistry, store_root: Path, config_file: Path
) -> None:
    big = image([random_layer(3000 * KIB)], platform="linux/amd64")
    ref = scripted.serve("some/image", "v1", big)
    done = run_with_mounts(
        PULL_ONTO_A_SMALL_DISK,
        store_root,
        config_file,
        ref,
        mounts=[f"-t tmpfs -o size=2m none {store_root}"],
    )
    assert done.stdout.startswith(f"10 disk-full {ref} needs "), done.stderr


@pytest.mark.parametrize("directory", ["tmp", "images/blobs/sha256"])
def test_a_store_that_cannot_be_written_is_an_error_of_the_disk(
    directory: str, scripted: ScriptedRegistry, store_root: Path, config_file: Path
) -> None:
    ref = scripted.serve("some/image", "v1", IMAGE)
    ImageService(store_root, config_file).pull_image(scripted.serve("some/image", "v0", image([TOP])))
    path = store_root / directory
    done = run_with_mounts(
        PULL_ONTO_A_SMALL_DISK,
        store_root,
        config_file,
        ref,
        mounts=[f"--bind {path} {path}", f"-o remount,bind,ro {path}"],
    )
    assert done.stdout.startswith("10 "), done.stderr


def test_many_pulls_leave_no_descriptor_and_no_thread_behind(scripted: ScriptedRegistry, service: ImageService) -> None:
    ref = scripted.serve("some/image", "v1", IMAGE)
    missing = scripted.reference("some/image", "none")
    service.pull_image(ref)
    with pytest.raises(MicropodError):
        service.pull_image(missing)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        service.delete_image(ref)
        service.pull_image(ref)
        with pytest.raises(MicropodError):
            service.pull_image(missing)
    scripted_threads = [one for one in threading.enumerate() if one.name in {"drain", "feed", "check-crane"}]
    assert (
        len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    )  # a connection of the scripted registry may still be closing
    assert scripted_threads == []
