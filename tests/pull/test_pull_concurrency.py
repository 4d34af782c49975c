"""Many at once: each layer is sent once whoever asks, and nothing that a pull needs is taken from under it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from micropod_img import locks
from micropod_img.progress import Waiting
from tests.cli.command_line import PROGRAM, environment
from tests.support import scripted as scripted_module
from tests.support import stores
from tests.support.faults import BLOBS, dripping, on, stalled
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.push import push
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from _typeshed import ReadableBuffer

    from micropod_img.progress import Event
    from micropod_img.service import ImageService
    from tests.cli.command_line import Json
    from tests.support.images import Manifest
    from tests.support.registries import Registry
    from tests.support.scripted import Response, ScriptedRegistry

KIB = 1 << 10
PATIENCE = 60.0
SLOWLY = 90 * KIB  # so that a layer takes longer than the two seconds after which a wait is told
SHARED = random_layer(300 * KIB, seed=1), random_layer(300 * KIB, seed=2)
OWN = layer({"etc/one": b"one\n"}), layer({"etc/other": b"other\n"})
ONE = image([*SHARED, OWN[0]])
# The other way round: pulls that waited for one another would wait for ever.
OTHER = image([*reversed(SHARED), OWN[1]])

# Argv: store, configuration, seconds, method, references. Says how often it did it. What is removed the moment after it
# was pulled is not here any more, and may be said to be so.
OVER_AND_OVER = """
import itertools, sys, time
from micropod_img import ImageService
from micropod_img.errors import NotFoundError
root, config, seconds, method, *refs = sys.argv[1:]
service = ImageService(root, config)
until = time.monotonic() + float(seconds)
for count in itertools.count(1):
    ref = refs[count % len(refs)] if refs else None
    try:
        if method == "collect_garbage":
            service.collect_garbage()
        elif method == "delete_image":
            service.delete_image(ref)
        else:
            assert service.pull_image(ref, policy="always").ref == ref
    except NotFoundError:
        if ":kept" in ref:
            raise
    if time.monotonic() > until:
        break
print(count)
"""


class CountingWriter(io.BufferedIOBase):
    """Passes a body on to a client, and notes what left."""

    def __init__(self, stream: io.BufferedIOBase, note: Callable[[int], None]) -> None:
        self._stream = stream
        self._note = note

    def write(self, data: ReadableBuffer, /) -> int:
        written = self._stream.write(data)
        self._note(written)
        return written


class Sent:
    """How many bytes of bodies a scripted registry sent, by digest, with those that were not read to their end."""

    def __init__(self) -> None:
        self._pieces: list[tuple[str, int]] = []

    def note(self, path: str, size: int) -> None:
        self._pieces.append((path.rpartition("/")[2], size))

    def __getitem__(self, digest: str) -> int:
        return sum(size for name, size in self._pieces if name == digest)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    counts = Sent()
    send = scripted_module._Handler._send

    def counted(handler: scripted_module._Handler, response: Response) -> None:
        client = handler.wfile
        handler.wfile = CountingWriter(client, lambda size: counts.note(handler.path, size))
        try:
            send(handler, response)
        finally:
            handler.wfile = client

    monkeypatch.setattr(scripted_module._Handler, "_send", counted)
    return counts


@dataclass(frozen=True)
class Ended:
    """A ``pull --json --progress=json`` that has ended."""

    pid: int
    status: int
    document: dict[str, Json]
    events: Sequence[dict[str, Json]]

    @property
    def holders(self) -> list[str]:
        """For whom it said that it waits."""
        return [str(event["holder"]) for event in self.events if event["event"] == "waiting"]

    def bytes_that_were(self, what: str) -> int:
        data = self.document["data"]
        assert isinstance(data, dict)
        count = data[f"{what}_bytes"]
        assert isinstance(count, int)
        return count


def pull_at_once(store_root: Path, config_file: Path, *refs: str) -> list[Ended]:
    """Pull each reference in a process of its own, all at the same time."""
    options = (f"--root={store_root}", f"--config={config_file}", "--json", "pull", "--progress=json")
    processes = [start([*PROGRAM, *options, ref]) for ref in refs]
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        events = [json.loads(line) for line in err.splitlines()]
        ended.append(Ended(process.pid, process.returncode, json.loads(out), events))
    return ended


def start(argv: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digests(images: Sequence[Manifest]) -> list[str]:
    return [one.digest for one in images]


@pytest.mark.slow
def test_an_image_that_two_processes_pull_at_once_is_sent_once(
    service: ImageService, store_root: Path, config_file: Path, scripted: ScriptedRegistry, sent: Sent
) -> None:
    ref = scripted.serve("some/image", "1", ONE)
    scripted.faults = (on(BLOBS, dripping(SLOWLY)),)

    ended = pull_at_once(store_root, config_file, ref, ref)

    assert [one.status for one in ended] == [0, 0]
    assert [sent[one.digest] for one in ONE.layers] == [one.size for one in ONE.layers]
    first, second = sorted(ended, key=lambda one: len(one.holders))
    assert (first.holders, len(second.holders)) == ([], 1)
    assert second.holders[0].startswith(f"process {first.pid} (pull {ref}")
    assert (second.bytes_that_were("downloaded"), first.bytes_that_were("reused")) == (0, 0)
    assert [one.digest for one in service.list_images()] == [ONE.digest]


@pytest.mark.slow
def test_layers_that_two_images_share_are_sent_once_when_both_are_pulled_at_once(
    service: ImageService, store_root: Path, config_file: Path, scripted: ScriptedRegistry, sent: Sent
) -> None:
    refs = scripted.serve("some/one", "1", ONE), scripted.serve("some/other", "1", OTHER)
    scripted.faults = (on(BLOBS, dripping(SLOWLY)),)

    ended = pull_at_once(store_root, config_file, *refs)

    assert [one.status for one in ended] == [0, 0]
    for shared in SHARED:
        # The one that waits has begun before it knew that it must, and stops: twice it would be the whole.
        assert shared.size <= sent[shared.digest] < 2 * shared.size
    assert sorted(len(one.holders) > 0 for one in ended) == [False, True]
    both = sum(one.size for one in SHARED)
    assert sorted(one.bytes_that_were("downloaded") > both for one in ended) == [False, True]
    assert sorted(one.bytes_that_were("reused") >= both for one in ended) == [False, True]
    assert sorted(one.digest for one in service.list_images()) == sorted(digests([ONE, OTHER]))


@pytest.mark.slow
def test_what_another_image_brings_is_waited_for_and_not_fetched_from_elsewhere(
    service: ImageService,
    store_root: Path,
    config_file: Path,
    scripted: ScriptedRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "SAY_AFTER_SECONDS", 0.0)
    ref, other = scripted.serve("quick/one", "1", ONE), scripted.serve("stalled/other", "1", OTHER)
    never = [on(f"stalled/.*{one.digest}", stalled()) for one in SHARED]
    scripted.faults = (on(f"quick/.*{BLOBS}", dripping(150 * KIB)), *never)
    events: list[Event] = []

    with start([*PROGRAM, f"--root={store_root}", f"--config={config_file}", "pull", ref]) as process:
        wait_until(lambda: stores.blob_path(store_root, OWN[0].digest).exists())
        pulled = service.pull_image(other, progress=events.append, stall_timeout=10)
        process.communicate(timeout=PATIENCE)

    assert (process.returncode, pulled.digest) == (0, OTHER.digest)
    holders = {event.holder for event in events if isinstance(event, Waiting)}
    assert holders == {f"process {process.pid} (pull {ref})"}


@pytest.mark.slow
def test_gc_and_rmi_that_run_all_the_time_take_nothing_that_a_pull_needs(
    service: ImageService, store_root: Path, config_file: Path, crane_registry: Registry, repository: str
) -> None:
    names = [*(f"removed-{number}" for number in range(4)), *(f"kept-{number}" for number in range(2))]
    # Between two pulls nobody needs what the removed ones share.
    shared = {"removed": random_layer(20 * KIB, seed=3), "kept": random_layer(20 * KIB, seed=4)}
    images = [image([shared[name.partition("-")[0]], layer({name: b"own"})]) for name in names]
    refs = [push(crane_registry, repository, name, one) for name, one in zip(names, images, strict=True)]
    loop = (sys.executable, "-c", OVER_AND_OVER, str(store_root), str(config_file), "3")

    processes = [
        start([*loop, "pull_image", *refs]),
        start([*loop, "delete_image", *refs[:4]]),
        start([*loop, "collect_garbage"]),
    ]
    said = [process.communicate(timeout=PATIENCE) for process in processes]

    assert [err for _, err in said] == [""] * 3
    assert all(int(out) > len(refs) for out, _ in said)
    by_ref = dict(zip(refs, digests(images), strict=True))
    listed = {one.ref: one.digest for one in service.list_images()}
    assert listed.items() <= by_ref.items()
    assert set(refs[4:]) <= set(listed)
    service.collect_garbage()
    assert stores.problems(store_root) == []


@pytest.mark.slow
def test_images_pulled_side_by_side_are_all_in_the_index(
    service: ImageService, store_root: Path, registry: Registry, repository: str
) -> None:
    base = random_layer(200 * KIB, seed=4)
    images = [image([base, layer({"etc/number": b"%d" % number})]) for number in range(8)]
    refs = [push(registry, repository, f"v{number}", one) for number, one in enumerate(images)]

    report = service.pull_images(refs, jobs=4)

    assert report.failures == ()
    assert [(one.ref, one.digest) for one in report.images] == list(zip(refs, digests(images), strict=True))
    assert sorted(stores.listed(store_root)) == sorted(zip(refs, digests(images), strict=True))
    # The layer that they share came once, with the first of them.
    own = sum(blob.size for one in images for blob in one.blobs if blob != base)
    assert (report.downloaded_bytes, report.reused_bytes) == (own + base.size, 7 * base.size)
    assert stores.blobs(store_root) == {blob.digest for one in images for blob in (*one.blobs, one)}
