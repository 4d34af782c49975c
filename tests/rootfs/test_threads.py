"""One service, and many threads that use it at once (docs/api.md, "Threads and processes")."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from micropod_img.errors import ConflictError
from tests.rootfs.local_images import LocalService
from tests.rootfs.unpacking import as_root
from tests.support.layers import Entry, whiteout

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = as_root

THREADS = 8


def test_threads_make_use_and_remove_pods_of_images_that_share_layers(store_root: Path) -> None:
    service = LocalService(store_root)
    base = [Entry("base", b"1"), Entry("gone")]
    refs = [service.put_layers(base, [whiteout("gone"), Entry("own", str(number).encode())]) for number in range(3)]

    def live(number: int) -> str:
        pod = service.create_pod(refs[number % len(refs)], bundle=True, args=["/own"], policy="never")
        assert (pod.rootfs / "own").read_text() == str(number % len(refs))
        assert not (pod.rootfs / "gone").exists()
        (pod.rootfs / "base").write_text(pod.id)
        service.unmount_pod(pod.id)
        assert service.mount_pod(pod.id).mounted
        assert (pod.rootfs / "base").read_text() == pod.id
        assert pod.id in [one.id for one in service.list_pods()]
        service.collect_garbage()
        service.remove_pod(pod.id)
        return pod.id

    with ThreadPoolExecutor(THREADS) as executor:
        made = list(executor.map(live, range(2 * THREADS)))
    assert len(set(made)) == 2 * THREADS
    assert service.list_pods() == []
    assert list((store_root / "tmp").iterdir()) == []


def test_threads_that_want_the_same_id_leave_one_pod(store_root: Path) -> None:
    service = LocalService(store_root)
    ref = service.put_layers([Entry("a")])

    def attempt(_: int) -> bool:
        try:
            service.create_pod(ref, pod_id="one", policy="never")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as executor:
        assert sum(executor.map(attempt, range(THREADS))) == 1
    assert [pod.id for pod in service.list_pods()] == ["one"]
    service.end()
