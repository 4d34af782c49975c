"""Images and blobs are removed while others use them, and bring them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.digest import hex_of
from micropod_img.store import removal
from micropod_img.store.images import ImageStore
from micropod_img.store.removal import collect_garbage, remove_images
from tests.support import stores
from tests.support.images import image
from tests.support.layers import layer
from tests.support.layouts import pulled

if TYPE_CHECKING:
    from micropod_img.digest import Digest
    from micropod_img.store.store import Store

CHECKOUT = Path(__file__).parent.parent.parent
BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
APP = image([BASE, TOP])
ALL = {blob.digest for blob in (*APP.blobs, APP)}


def size_without(*digests: Digest) -> int:
    """Bytes of all blobs of the image but some."""
    return sum(blob.size for blob in (*APP.blobs, APP) if blob.digest not in digests)


def test_blobs_that_a_staging_place_holds_stay_and_do_not_count(store: Store) -> None:
    pulled(store, "app:1", APP)
    with store.stage("pull") as staging:
        fsutil.make_directory(staging.blobs)
        store.blobs.link_into(staging.blobs, [BASE.digest, APP.digest])
        result = remove_images(store, ["app:1"])
        assert stores.blobs(store.layout.root) == {BASE.digest, APP.digest}
        assert result.removed == ("docker.io/library/app:1",)
        assert result.freed_bytes == size_without(BASE.digest, APP.digest)
    assert set(collect_garbage(store).removed) == {BASE.digest, APP.digest}


@pytest.mark.parametrize("takes", ["rmi", "gc"])
def test_a_blob_that_is_linked_as_it_is_taken_comes_back(
    takes: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the number of links and the rename a pull may count on the blob."""
    pulled(store, "app:1", APP)
    if takes == "gc":
        store.layout.index.write_text('{"schemaVersion": 2, "manifests": []}')
    look = store.blobs.held_elsewhere
    with store.stage("pull") as staging:
        fsutil.make_directory(staging.blobs)

        def linked_after_the_look(digest: Digest) -> bool:
            held = look(digest)
            if digest == BASE.digest:
                store.blobs.link_into(staging.blobs, [digest])
            return held

        monkeypatch.setattr(store.blobs, "held_elsewhere", linked_after_the_look)
        result = collect_garbage(store) if takes == "gc" else remove_images(store, ["app:1"])
        assert stores.blobs(store.layout.root) == {BASE.digest}
        assert BASE.digest not in result.removed
        assert result.freed_bytes == size_without(BASE.digest)


def test_a_blob_that_is_published_as_it_comes_back_stays_its_publishers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two pulls that use a blob which gc takes away for a moment, one has linked it, and one brings it anew."""
    pulled(store, "app:1", APP)
    store.layout.index.write_text('{"schemaVersion": 2, "manifests": []}')
    with store.stage("pull") as one, store.stage("pull") as other:
        for staging in (one, other):
            fsutil.make_directory(staging.blobs)
        brought = other.blobs / hex_of(BASE.digest)
        brought.write_bytes(BASE.content)
        look, rename = store.blobs.held_elsewhere, Path.rename

        def linked_after_the_look(digest: Digest) -> bool:
            held = look(digest)
            if digest == BASE.digest:
                store.blobs.link_into(one.blobs, [digest])
            return held

        def published_after_the_rename(self: Path, target: Path) -> Path:
            moved = rename(self, target)
            if self == store.layout.blob(BASE.digest):
                store.blobs.publish(brought, BASE.digest)
            return moved

        monkeypatch.setattr(store.blobs, "held_elsewhere", linked_after_the_look)
        monkeypatch.setattr(Path, "rename", published_after_the_rename)
        collect_garbage(store)
        assert store.layout.blob(BASE.digest).samefile(brought)


def test_the_index_is_written_before_anything_is_taken_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, blobs are garbage; the other way round an image would be listed without them."""
    pulled(store, "app:1", APP)

    def killed(*_: object) -> None:
        assert store.read_index().entries == ()
        raise KeyboardInterrupt

    monkeypatch.setattr(removal, "_discard", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_images(store, ["app:1"])
    monkeypatch.undo()
    assert stores.blobs(store.layout.root) == ALL
    assert set(collect_garbage(store).removed) == ALL


COMES_AND_GOES = """
import random, sys, time
from pathlib import Path
from micropod_img.errors import NotFoundError
from micropod_img.store.removal import collect_garbage, remove_images
from micropod_img.store.store import Store
from tests.support.publishing import publish
from tests.support.images import image
from tests.support.layers import layer

store = Store(Path(sys.argv[1]))
mine, deadline = sys.argv[2], time.monotonic() + float(sys.argv[3])
shared = [layer({"shared": b"%d" % number}) for number in range(3)]
turns = 0
while time.monotonic() < deadline:
    made = image([random.choice(shared), random.choice(shared)])
    store.prepare()
    publish(store, f"{mine}:1", made)
    if random.random() < 0.3:
        collect_garbage(store)
    if random.random() < 0.7:
        remove_images(store, [f"{mine}:1"])
    turns += 1
print(turns)
"""


def test_no_image_that_is_listed_ever_lacks_a_blob_whatever_others_remove(store: Store) -> None:
    argv = [sys.executable, "-c", COMES_AND_GOES, str(store.layout.root)]
    processes = [
        subprocess.Popen([*argv, f"app{number}", "2"], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
        for number in range(4)
    ]
    done = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert all(int(turns) > 5 for turns in done)
    assert stores.problems(store.layout.root) == []
    images = ImageStore(store)
    for record in images.records(store.read_index().entries):
        images.image(record)
