from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.digest import Digest, sha256_of
from micropod_img.errors import DiskError, IntegrityError
from micropod_img.store.blobs import DOCUMENT_LIMIT, BlobStore, file_digest, identity_of, is_hex
from tests.store import damage
from tests.support.layers import Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from micropod_img.store.staging import Staging
    from micropod_img.store.store import Store
    from tests.store.damage import Damage

SMALL = Blob("", b"a document")
LARGE = Blob("", os.urandom((1 << 20) + 1))
"""Too large to be read again at each publication."""


@pytest.fixture
def blobs(store: Store) -> BlobStore:
    return store.blobs


@pytest.fixture
def staging(store: Store) -> Iterator[Staging]:
    with store.stage("test") as staging:
        yield staging


def staged(staging: Staging, blob: Blob, name: str = "staged") -> Path:
    path = staging.path / name
    path.write_bytes(blob.content)
    return path


def there(store: Store, blob: Blob, content: bytes | None = None) -> Path:
    """Put bytes where a blob belongs: its own, or other ones."""
    path = store.layout.blob(blob.digest)
    path.write_bytes(blob.content if content is None else content)
    return path


# Reading


def test_a_blob_is_here_if_its_size_is_right(store: Store, blobs: BlobStore) -> None:
    assert not blobs.has(SMALL.digest, SMALL.size)
    there(store, SMALL)
    assert blobs.has(SMALL.digest, SMALL.size)
    assert not blobs.has(SMALL.digest, SMALL.size + 1)


def test_a_blob_is_read_if_its_bytes_are_what_its_name_says(store: Store, blobs: BlobStore) -> None:
    there(store, SMALL)
    assert blobs.read(SMALL.digest) == blobs.read(SMALL.digest, size=SMALL.size) == SMALL.content


@pytest.mark.parametrize(
    "content",
    [b"", b"a documenT", b"a document and more", b"\0" * DOCUMENT_LIMIT],
    ids=["none", "other", "more", "much"],
)
def test_a_blob_with_other_bytes_is_corrupt(content: bytes, store: Store, blobs: BlobStore) -> None:
    there(store, SMALL, content)
    with pytest.raises(IntegrityError, match=f"blob {SMALL.digest} is corrupt") as raised:
        blobs.read(SMALL.digest)
    assert (raised.value.code, raised.value.exit_status) == ("corrupt-blob", 7)


def test_a_blob_of_another_size_than_another_document_says_is_an_error(store: Store, blobs: BlobStore) -> None:
    there(store, SMALL)
    with pytest.raises(IntegrityError, match="what names it says"):
        blobs.read(SMALL.digest, size=SMALL.size + 1)


def test_a_blob_that_is_missing_is_an_error_with_a_way_out(blobs: BlobStore) -> None:
    with pytest.raises(IntegrityError) as raised:
        blobs.read(SMALL.digest)
    assert raised.value.code == "missing-blob"
    assert "pull" in (raised.value.hint or "")


def test_a_document_larger_than_any_is_not_read_to_its_end(store: Store, blobs: BlobStore) -> None:
    path = there(store, SMALL)
    os.truncate(path, 1 << 40)  # a hole: reading it whole would take all memory
    with pytest.raises(IntegrityError, match="corrupt"):
        blobs.read(SMALL.digest)


@pytest.mark.parametrize(
    "damage", [damage.made_a_directory, damage.made_a_link, damage.made_a_fifo], ids=["directory", "link", "pipe"]
)
def test_what_is_no_file_is_no_blob(
    damage: Callable[[Blob], Damage], store: Store, blobs: BlobStore, staging: Staging
) -> None:
    there(store, SMALL)
    damage(SMALL)(store.layout.root)
    assert not blobs.has(SMALL.digest, SMALL.size)
    with pytest.raises(IntegrityError) as raised:
        blobs.read(SMALL.digest)
    assert (raised.value.code, raised.value.hint) == ("corrupt-blob", "micropod-img verify --repair")
    blobs.link_into(staging.path, [SMALL.digest])
    assert list(staging.path.iterdir()) == []


def test_a_file_that_was_found_to_be_bad_is_none_until_another_takes_its_place(store: Store, staging: Staging) -> None:
    target = there(store, LARGE)
    target.write_bytes(bytes(LARGE.size))
    bad = BlobStore(store.layout, {LARGE.digest: identity_of(target.stat())})
    assert not bad.has(LARGE.digest, LARGE.size)
    assert LARGE.digest not in bad.sizes()
    bad.link_into(staging.path, [LARGE.digest])
    assert list(staging.path.iterdir()) == []
    assert store.blobs.has(LARGE.digest, LARGE.size)  # others do not know yet
    bad.publish(staged(staging, LARGE), LARGE.digest)
    assert bad.has(LARGE.digest, LARGE.size)
    assert target.read_bytes() == LARGE.content


def test_a_blob_that_may_not_be_looked_for_is_an_error_of_the_disk(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, **_: object) -> os.stat_result:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "stat", broken)
    with pytest.raises(DiskError, match="Input/output error"):
        blobs.has(SMALL.digest, 1)


def test_sizes_are_those_of_files_that_are_named_as_blobs_are(store: Store, blobs: BlobStore) -> None:
    there(store, SMALL)
    there(store, LARGE)
    for name in (".hidden", "0" * 63, "0" * 65, "A" * 64, "g" * 64, f"{'0' * 64}123", "\n" + "0" * 63):
        (store.layout.blobs / name).write_bytes(b"x")
    assert blobs.sizes() == {SMALL.digest: SMALL.size, LARGE.digest: LARGE.size}


def test_sizes_of_a_store_that_was_not_made_are_none(store: Store, blobs: BlobStore) -> None:
    store.layout.blobs.rmdir()
    assert blobs.sizes() == {}


def test_a_blob_that_goes_while_sizes_are_read_hides_no_other(store: Store, blobs: BlobStore) -> None:
    """A sum that misses blobs would have them fetched again, or gc miss them."""
    kept = {there(store, Blob("", b"%d" % number)).name for number in range(50)}
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            going = [there(store, Blob("", b"going %d" % number)) for number in range(50)]
            for path in going:
                path.unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(100):
            assert kept <= {digest.removeprefix("sha256:") for digest in blobs.sizes()}
    finally:
        done.set()
        thread.join()


# Publishing


@pytest.mark.parametrize("blob", [SMALL, LARGE], ids=["small", "large"])
def test_a_published_blob_is_the_staged_file_itself(
    blob: Blob, store: Store, blobs: BlobStore, staging: Staging
) -> None:
    path = staged(staging, blob)
    path.chmod(0o600)
    blobs.publish(path, blob.digest)
    target = store.layout.blob(blob.digest)
    assert target.samefile(path)
    assert target.read_bytes() == blob.content
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_blob_is_durable_before_it_has_its_name(
    store: Store, blobs: BlobStore, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(descriptor: int) -> None:
        order.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink()}")
        fsync(descriptor)

    def noted_link(source: Path, target: Path) -> None:
        order.append(f"link {target}")
        link(source, target)

    path = staged(staging, SMALL)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    blobs.publish(path, SMALL.digest)
    blobs.sync()
    assert order == [f"fsync {path}", f"link {store.layout.blob(SMALL.digest)}", f"fsync {store.layout.blobs}"]


@pytest.mark.parametrize("blob", [SMALL, LARGE], ids=["small", "large"])
def test_a_blob_that_is_there_stays_and_the_staged_file_becomes_a_link_of_it(
    blob: Blob, store: Store, blobs: BlobStore, staging: Staging
) -> None:
    """So gc sees that it is about to be used, whoever brought it."""
    target = there(store, blob)
    inode = target.stat().st_ino
    path = staged(staging, blob)
    blobs.publish(path, blob.digest)
    assert target.stat().st_ino == path.stat().st_ino == inode
    assert blobs.held_elsewhere(blob.digest)
    assert [each.name for each in staging.path.iterdir()] == ["staged"]


def test_a_blob_may_be_published_again_and_again(store: Store, blobs: BlobStore, staging: Staging) -> None:
    path = staged(staging, SMALL)
    for _ in range(3):
        blobs.publish(path, SMALL.digest)
    assert store.layout.blob(SMALL.digest).stat().st_nlink == 2
    assert [each.name for each in staging.path.iterdir()] == ["staged"]


@pytest.mark.parametrize(
    ("blob", "content"),
    [
        pytest.param(SMALL, b"a documenT", id="other bytes"),
        pytest.param(SMALL, b"", id="nothing"),
        pytest.param(LARGE, LARGE.content[:-1], id="cut short"),
        pytest.param(LARGE, LARGE.content + b"x", id="too long"),
    ],
)
def test_what_stands_in_a_blobs_place_and_is_not_it_is_replaced(
    blob: Blob, content: bytes, store: Store, blobs: BlobStore, staging: Staging
) -> None:
    target = there(store, blob, content)
    reader = target.open("rb")
    path = staged(staging, blob)
    blobs.publish(path, blob.digest)
    assert target.read_bytes() == blob.content
    with reader:
        assert reader.read() == content  # who reads the old file is not disturbed
    assert [each.name for each in staging.path.iterdir()] == ["staged"]


def test_a_blob_that_is_taken_away_just_then_is_published_anew(
    store: Store, blobs: BlobStore, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = there(store, SMALL)
    holds = blobs._holds

    def taken_after_the_look(there: Path, staged: Path, digest: Digest) -> bool:
        found = holds(there, staged, digest)
        target.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(blobs, "_holds", taken_after_the_look)
    blobs.publish(staged(staging, SMALL), SMALL.digest)
    assert target.read_bytes() == SMALL.content


def test_an_error_of_the_disk_says_so_and_which_blob(
    store: Store, blobs: BlobStore, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    path = staged(staging, SMALL)
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(DiskError, match="the disk is full") as raised:
        blobs.publish(path, SMALL.digest)
    assert raised.value.code == "disk-full"
    assert not store.layout.blob(SMALL.digest).exists()


def test_many_may_publish_the_same_blob_at_once(store: Store, blobs: BlobStore) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(8)

    def publish(number: int) -> None:
        try:
            with store.stage("test") as mine:
                paths = [staged(mine, Blob("", b"%d" % each), str(each)) for each in range(20)]
                barrier.wait()
                for path in paths:
                    blobs.publish(path, sha256_of(path.name.encode()))
                    assert store.layout.blob(sha256_of(path.name.encode())).samefile(path), number
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert blobs.sizes() == {sha256_of(b"%d" % number): len(str(number)) for number in range(20)}


# Leases


def test_blobs_are_linked_into_a_staging_place_and_held_as_long_as_it_is_there(
    store: Store, blobs: BlobStore, staging: Staging
) -> None:
    there(store, SMALL)
    assert not blobs.held_elsewhere(SMALL.digest)
    fsutil.make_directory(staging.blobs)
    blobs.link_into(staging.blobs, [SMALL.digest, LARGE.digest, SMALL.digest])
    assert blobs.held_elsewhere(SMALL.digest)
    assert [path.name for path in staging.blobs.iterdir()] == [SMALL.digest.removeprefix("sha256:")]
    assert not blobs.held_elsewhere(LARGE.digest)
    staging.__exit__(None, None, None)
    assert not blobs.held_elsewhere(SMALL.digest)
    staging.__enter__()


def test_a_blob_that_cannot_be_linked_is_an_error_of_the_disk(store: Store, blobs: BlobStore, staging: Staging) -> None:
    there(store, SMALL)
    (staging.path / "file").write_bytes(b"")
    with pytest.raises(DiskError):
        blobs.link_into(staging.path / "file", [SMALL.digest])


# Names


@pytest.mark.parametrize("name", ["", "0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\n", "0" * 32 + "/" + "0" * 31])
def test_a_name_that_is_no_digest_is_none(name: str) -> None:
    assert not is_hex(name)
    assert is_hex("0123456789abcdef" * 4)


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE.content)
    assert file_digest(tmp_path / "file") == LARGE.digest
