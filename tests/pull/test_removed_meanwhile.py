"""What another process takes away, or moves, while it is read or pulled: it is not here any more, and never damaged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.digest import Digest
from micropod_img.errors import IntegrityError, NotFoundError
from micropod_img.progress import FetchStarted
from micropod_img.pull import image_pull, job
from micropod_img.rootfs import filesystems
from micropod_img.store.blobs import BlobStore
from tests.support import stores
from tests.support.faults import BLOBS, dripping, on
from tests.support.images import image
from tests.support.layers import Layer, layer, random_layer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from micropod_img.models import Image
    from micropod_img.progress import Event
    from micropod_img.service import BrokenImage, ImageService
    from tests.support.images import Manifest
    from tests.support.meanwhile import Meanwhile
    from tests.support.scripted import ScriptedRegistry

KIB = 1 << 10
BASE = layer({"etc/motd": b"base"})
OLD = image([BASE, layer({"etc/issue": b"old"})])
NEW = image([BASE, layer({"etc/issue": b"new"})])


@pytest.fixture
def ref(scripted: ScriptedRegistry, service: ImageService) -> str:
    """An image that is here, beside one that stays."""
    service.pull_image(scripted.serve("some/other", "1", NEW))
    ref = scripted.serve("some/image", "1", OLD)
    service.pull_image(ref)
    return ref


def refs(images: list[str]) -> set[str]:
    return {one.partition("/")[2] for one in images}


# --- reading


def test_a_list_leaves_out_an_image_that_is_removed_while_it_is_made(
    ref: str, service: ImageService, another: ImageService, meanwhile: Meanwhile
) -> None:
    meanwhile.before(BlobStore, "read", lambda: another.delete_image(ref))

    assert refs([one.ref for one in service.list_images()]) == {"some/other:1"}


def test_a_list_for_who_wants_to_know_what_is_broken_is_told_of_nothing_that_is_removed(
    ref: str, service: ImageService, another: ImageService, meanwhile: Meanwhile
) -> None:
    broken: list[BrokenImage] = []
    meanwhile.before(BlobStore, "has", lambda: another.delete_image(ref))

    assert refs([one.ref for one in service.list_images(broken.append)]) == {"some/other:1"}
    assert broken == []


def test_a_list_has_a_tag_that_moves_meanwhile_once(
    ref: str, service: ImageService, another: ImageService, scripted: ScriptedRegistry, meanwhile: Meanwhile
) -> None:
    def move() -> None:
        scripted.serve("some/image", "1", NEW)
        another.pull_image(ref, policy="newer")
        another.collect_garbage()

    meanwhile.before(BlobStore, "read", move)

    listed = [(one.ref, one.digest) for one in service.list_images()]
    assert [digest for name, digest in listed if name == ref] == [NEW.digest]


@pytest.mark.parametrize("reader", ["get_image", "pull_image"])
def test_an_image_that_is_removed_while_it_is_read_is_not_found(
    reader: str, ref: str, service: ImageService, another: ImageService, meanwhile: Meanwhile
) -> None:
    meanwhile.before(BlobStore, "read", lambda: another.delete_image(ref))

    with pytest.raises(NotFoundError):
        service.get_image(ref) if reader == "get_image" else service.pull_image(ref, policy="never")


def test_an_image_that_is_removed_and_pulled_anew_while_it_is_read_is_here(
    ref: str, service: ImageService, another: ImageService, meanwhile: Meanwhile
) -> None:
    def again() -> None:
        another.delete_image(ref)
        # Before the reader looks at the index again; within one second the two entries are the same to the letter.
        meanwhile.before(fsutil, "same_file", lambda: another.pull_image(ref))

    meanwhile.before(BlobStore, "read", again)

    assert service.get_image(ref).digest == OLD.digest


def test_what_is_damaged_is_said_to_be_however_often_the_index_changes(
    ref: str, service: ImageService, another: ImageService, store_root: Path
) -> None:
    stores.blob_path(store_root, OLD.layers[-1].digest).write_bytes(b"torn")
    broken: list[BrokenImage] = []

    service.list_images(broken.append)

    assert [one.ref for one in broken] == [ref]
    another.delete_image(ref)


def test_disk_use_is_measured_though_an_image_is_removed_meanwhile(
    ref: str, service: ImageService, another: ImageService, meanwhile: Meanwhile
) -> None:
    meanwhile.before(BlobStore, "read", lambda: another.delete_image(ref))

    assert [one.image.digest for one in service.disk_usage().images] == [NEW.digest]


# --- making something of it


def unpack(service: ImageService, ref: str) -> object:
    return service.unpack(ref, service.root.parent / "files", policy="never")


def create_pod(service: ImageService, ref: str) -> object:
    return service.create_pod(ref, policy="never")


def create_bundle(service: ImageService, ref: str) -> object:
    return service.create_pod(ref, policy="never", bundle=True)


@pytest.mark.parametrize("use", [unpack, create_pod, create_bundle])
def test_nothing_is_made_of_an_image_that_is_removed_meanwhile(
    use: Callable[[ImageService, str], object],
    ref: str,
    service: ImageService,
    another: ImageService,
    meanwhile: Meanwhile,
) -> None:
    def remove() -> None:
        another.delete_image(ref, force=True)

    if use is create_bundle:
        service.remove_pod(service.create_pod(ref, policy="never").id)  # so that no layer is needed any more
        meanwhile.before(filesystems, "read_config", remove)
    else:
        meanwhile.before(BlobStore, "link_into", remove)

    with pytest.raises(NotFoundError, match=r"some/image:1 was removed meanwhile") as raised:
        use(service, ref)

    assert raised.value.retryable
    assert service.list_pods() == []
    assert not (service.root.parent / "files").exists()


def test_an_image_that_is_removed_and_pulled_anew_is_made_something_of(
    ref: str, service: ImageService, another: ImageService, meanwhile: Meanwhile
) -> None:
    def again() -> None:
        another.delete_image(ref)
        meanwhile.before(fsutil, "same_file", lambda: another.pull_image(ref))

    meanwhile.before(BlobStore, "link_into", again)

    unpack(service, ref)
    assert (service.root.parent / "files/etc/issue").read_bytes() == b"old"


def test_a_layer_that_is_missing_of_a_listed_image_is_damage(
    ref: str, service: ImageService, meanwhile: Meanwhile, store_root: Path
) -> None:
    lost = stores.blob_path(store_root, OLD.layers[-1].digest)
    meanwhile.before(BlobStore, "link_into", lost.unlink)

    with pytest.raises(IntegrityError, match="is missing"):
        unpack(service, ref)

    service.delete_image(ref)


# --- pulling


def test_a_pull_whose_image_is_removed_the_moment_it_is_listed_has_pulled_it(
    scripted: ScriptedRegistry, service: ImageService, another: ImageService, meanwhile: Meanwhile
) -> None:
    ref = scripted.serve("some/image", "1", OLD)
    meanwhile.before(job.PullJob, "_read_back", lambda: another.delete_image(ref))

    assert service.pull_image(ref).digest == OLD.digest
    assert service.list_images() == []
    service.collect_garbage()


@pytest.mark.slow
def test_an_image_that_lists_another_as_its_layer_and_that_one_do_not_wait_for_each_other(
    scripted: ScriptedRegistry, service: ImageService, another: ImageService, meanwhile: Meanwhile
) -> None:
    # The hostile one takes the lock of what both need, and then wants that of the image that waits for it.
    victim = next(one for one in map(_of_a_seed, count()) if one.layers[0].digest < one.digest)
    shared = victim.layers[0]
    hostile = image([shared, Layer(shared.media_type, victim.content, diff_id=shared.diff_id)])
    refs = scripted.serve("some/victim", "1", victim), scripted.serve("some/hostile", "1", hostile)
    scripted.faults = (on(BLOBS, dripping(100 * KIB)),)

    with ThreadPoolExecutor(1) as executor:
        other: list[Future[Image]] = []

        def pull_the_hostile_one() -> None:
            other.append(executor.submit(another.pull_image, refs[1], timeout=20))
            path = service._store.layout.blob_lock(Digest(shared.digest))
            wait_until(path.exists)

        meanwhile.before(image_pull.ImagePull, "_lock_missing", pull_the_hostile_one)
        pulled = service.pull_image(refs[0], timeout=20)

        assert (pulled.digest, other[0].result().digest) == (victim.digest, hostile.digest)


def _of_a_seed(seed: int) -> Manifest:
    return image([random_layer(100 * KIB, seed=seed)])


def test_removal_frees_what_a_pull_does_not_need_once_that_knows_what_it_needs(
    ref: str, scripted: ScriptedRegistry, service: ImageService, another: ImageService, store_root: Path
) -> None:
    def remove(event: Event) -> None:
        if isinstance(event, FetchStarted):
            another.delete_image(ref)

    service.pull_image(scripted.serve("some/third", "1", image([BASE, layer({"third": b"3"})])), progress=remove)

    assert not {OLD.digest, OLD.layers[-1].digest} & stores.blobs(store_root)
