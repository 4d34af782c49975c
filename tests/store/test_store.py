from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil, locks
from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.digest import Digest
from micropod_img.errors import ConflictError, DiskError, IntegrityError, UnsupportedError
from micropod_img.reference import Reference
from micropod_img.store.index import renamed, with_entries, without
from micropod_img.store.store import Store
from tests.support import stores
from tests.support.images import image
from tests.support.layers import layer
from tests.support.layouts import listed_as, pulled, put_blobs, write_layout

if TYPE_CHECKING:
    from micropod_img.locks import Wait

CHECKOUT = Path(__file__).parent.parent.parent
BLOB = Digest("sha256:" + "0" * 64)
APP = image([layer({"etc/motd": b"app"})])


def listed(store: Store) -> list[str]:
    return [entry.reference for entry in store.read_index().entries]


# Opening


def test_a_store_that_is_only_looked_at_is_not_made(tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    assert store.read_index().entries == ()
    assert not (tmp_path / "root").exists()


def test_a_store_that_must_not_be_used_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("2")
    with pytest.raises(UnsupportedError):
        Store(tmp_path)


def test_a_layout_of_another_tool_is_read_before_it_is_a_store(tmp_path: Path) -> None:
    put_blobs(tmp_path / "images", APP)
    write_layout(tmp_path / "images", [listed_as(APP, "app:1")])
    before = sorted(tmp_path.rglob("*"))
    assert listed(Store(tmp_path)) == ["docker.io/library/app:1"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_layout_of_another_tool_becomes_a_store_with_its_index_as_it_was(tmp_path: Path) -> None:
    put_blobs(tmp_path / "images", APP)
    write_layout(tmp_path / "images", [listed_as(APP, "app:1")])
    before = (tmp_path / "images" / "index.json").read_bytes()
    store = Store(tmp_path)
    store.prepare()
    assert (tmp_path / "images" / "index.json").read_bytes() == before
    assert (tmp_path / "version").read_text() == "1\n"
    pulled(store, "other:1", APP)
    assert listed(store) == ["docker.io/library/app:1", "docker.io/library/other:1"]


def test_preparing_sweeps(store: Store) -> None:
    (store.layout.staging / "pull-1").mkdir()
    store.prepare()
    assert list(store.layout.staging.iterdir()) == []


# The index


@pytest.mark.parametrize("content", [b"", b'{"manifests": [', b"{}"])
def test_a_torn_index_is_damage_that_no_write_covers_up(content: bytes, store: Store) -> None:
    store.layout.index.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"index\.json"):
        store.read_index()
    with pytest.raises(IntegrityError), store.index_transaction("test"):
        pass
    store.prepare()
    assert store.layout.index.read_bytes() == content


def test_a_missing_index_is_damage_with_a_way_out(store: Store) -> None:
    store.layout.index.unlink()
    with pytest.raises(IntegrityError) as raised:
        store.read_index()
    assert "verify --repair" in (raised.value.hint or "")
    store.layout.version.unlink()  # or a way to begin again, with no images
    store.prepare()
    assert store.read_index().entries == ()


def test_an_index_that_is_made_as_we_look_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, another = Store(tmp_path), Store(tmp_path)
    read_bytes = Path.read_bytes
    looked: list[Path] = []

    def made_after_the_look(path: Path) -> bytes:
        looked.append(path)
        if len(looked) == 1:
            try:
                return read_bytes(path)
            finally:
                another.prepare()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", made_after_the_look)
    assert store.read_index().entries == ()
    assert looked == [store.layout.index] * 2


def test_an_index_that_cannot_be_read_is_an_error_of_the_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(DiskError, match=r"index\.json: Input/output error"):
        store.read_index()


def test_what_a_transaction_does_not_change_it_does_not_write(store: Store) -> None:
    pulled(store, "app:1", APP)
    before = store.layout.index.stat()
    with store.index_transaction("test") as transaction:
        transaction.replace(transaction.index)
        transaction.replace(without(transaction.index, lambda _: False))
    after = store.layout.index.stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert stores.problems(store.layout.root) == []


def test_a_transaction_that_fails_changes_nothing_and_lets_others_in(store: Store) -> None:
    pulled(store, "app:1", APP)
    with pytest.raises(ZeroDivisionError), store.index_transaction("test"):
        raise ZeroDivisionError
    with store.index_transaction("test", cancellation=_soon()) as transaction:
        assert [entry.reference for entry in transaction.index.entries] == listed(store)


def test_an_index_that_a_killed_process_was_writing_is_gone(store: Store) -> None:
    place = store.layout.staging / "index-0123"
    place.mkdir()
    (place / "index.json").write_bytes(b'{"half')
    (store.layout.locks / "index.lock").write_bytes(b"process 1 (pull)")
    pulled(store, "app:1", APP)
    assert stores.problems(store.layout.root) == []


def test_a_full_disk_leaves_the_index_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    pulled(store, "app:1", APP)
    before = store.layout.index.read_bytes()
    monkeypatch.setattr(fsutil, "write_durably", full)
    with pytest.raises(DiskError, match="the disk is full"):
        pulled(store, "app:2", APP)
    assert store.layout.index.read_bytes() == before
    assert stores.problems(store.layout.root) == []


def test_who_waits_for_the_index_is_told_for_whom(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SAY_AFTER_SECONDS", 0.0)
    told: list[Wait] = []
    waiter = store.telling(told.append)

    with (
        store.index_transaction("pull alpine"),
        pytest.raises(ConflictError, match=r"\(pull alpine\) has locked the index") as raised,
        waiter.index_transaction("rmi", timeout=0),
    ):
        pytest.fail("two write the index")

    assert (raised.value.code, raised.value.retryable) == ("locked", True)
    assert [(wait.subject, wait.holder) for wait in told] == [("the index", f"process {os.getpid()} (pull alpine)")]


def _soon(seconds: float = 10) -> Cancellation:
    cancellation = Cancellation()
    timer = threading.Timer(seconds, cancellation.cancel)
    timer.daemon = True
    timer.start()
    return cancellation


def test_a_wait_for_the_index_can_be_called_off(store: Store) -> None:
    with (
        store.index_transaction("pull"),
        pytest.raises(CancelledError),
        store.index_transaction("rmi", cancellation=_soon(0.1)),
    ):
        pytest.fail("two hold the index")
    assert list(store.layout.locks.iterdir()) == []


LISTS = """
import sys
from pathlib import Path
from micropod_img.platforms import Platform
from micropod_img.reference import Reference
from micropod_img.store.index import new_entry, with_entries
from micropod_img.store.store import Store
store = Store(Path(sys.argv[1]))
store.prepare()
for number in range(20):
    entry = new_entry(
        reference=Reference.parse(f"{sys.argv[2]}:{number}"),
        digest="sha256:" + "0" * 64,
        media_type="",
        size=1,
        platform=None,
        index_digest=None,
        pulled_at="",
    )
    with store.index_transaction("test") as transaction:
        transaction.replace(with_entries(transaction.index, [entry]))
"""


def test_entries_that_many_processes_list_at_once_are_all_listed(store: Store) -> None:
    argv = [sys.executable, "-c", LISTS, str(store.layout.root)]
    processes = [subprocess.Popen([*argv, f"app{number}"], cwd=CHECKOUT) for number in range(5)]
    seen: set[int] = set()
    while any(process.poll() is None for process in processes):
        seen.add(len(store.read_index().entries))  # and it is never torn
    assert [process.wait() for process in processes] == [0] * 5
    assert sorted(listed(store)) == sorted(
        f"docker.io/library/app{number}:{tag}" for number in range(5) for tag in range(20)
    )
    assert len(seen) > 1


# The lock of a blob


def test_one_fetches_a_blob_and_the_others_know_at_once_that_they_wait(store: Store) -> None:
    called: list[None] = []

    def on_busy() -> None:
        called.append(None)
        raise CancelledError("seen")

    with store.blob_lock(BLOB, "pull alpine"):
        with pytest.raises(CancelledError), store.blob_lock(BLOB, "pull busybox", on_busy=on_busy):
            pytest.fail("two fetch a blob")
        other = Digest("sha256:" + "1" * 64)
        with store.blob_lock(other, "pull busybox", on_busy=on_busy):
            pass
    assert called == [None]
    assert list(store.layout.locks.iterdir()) == []


def test_a_wait_for_a_blob_that_takes_too_long_is_a_conflict(store: Store) -> None:
    with (
        store.blob_lock(BLOB, "pull alpine"),
        pytest.raises(ConflictError, match=r"\(pull alpine\) has locked blob sha256:") as raised,
        store.blob_lock(BLOB, "pull busybox", timeout=0.1),
    ):
        pytest.fail("two fetch a blob")
    assert (raised.value.code, raised.value.exit_status, raised.value.retryable) == ("locked", 9, True)


# ref.name, as other tools see it


def test_replacing_an_image_keeps_what_another_tool_listed(store: Store) -> None:
    put_blobs(store.layout.images, APP)
    theirs = listed_as(APP, "latest", urls=["https://example.com/x"])
    write_layout(store.layout.images, [theirs], annotations={"com.example": "layout"})
    for number, reference in enumerate(("app:1", "app:2", "app:1")):
        pulled(store, reference, image([], config={"author": str(number)}))
    assert stores.entries(store.layout.root)[0] == theirs
    with store.index_transaction("test") as transaction:
        assert transaction.index.members["annotations"] == {"com.example": "layout"}
        transaction.replace(without(transaction.index, lambda entry: entry.reference.endswith("app:2")))
        transaction.replace(
            with_entries(transaction.index, [renamed(transaction.index.entries[-1], Reference.parse("app:3"))])
        )
    assert stores.entries(store.layout.root)[0] == theirs
