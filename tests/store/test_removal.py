from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import ConflictError, IntegrityError, MicropodError, NotFoundError, UsageError
from micropod_img.store.removal import collect_garbage, remove_images
from tests.support import stores
from tests.support.images import image, index
from tests.support.layers import Blob, layer
from tests.support.layouts import listed_as, pulled, put_blob, put_blobs, write_layout
from tests.support.mounts import run_with_mounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from micropod_img.store.store import Store
    from tests.support.images import Manifest

CHECKOUT = Path(__file__).parent.parent.parent
BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
OTHER = layer({"etc/hosts": b"other"})
APP = image([BASE, TOP])
TOOL = image([BASE, OTHER])
ARM64 = image([OTHER], platform="linux/arm64/v8")
BOTH = index([APP, ARM64])
GARBAGE = Blob("", b"of a pull that was interrupted")


def everything(*documents: Manifest) -> set[str]:
    """The digest of every blob of some documents."""
    return {blob.digest for one in documents for blob in (*one.blobs, *one.manifests, one)}


def own(document: Manifest, *others: Manifest) -> set[str]:
    return everything(document) - everything(*others)


def size_of(document: Manifest, digests: Iterable[str]) -> int:
    sizes = {blob.digest: blob.size for blob in (*document.blobs, *document.manifests, document)}
    return sum(size for digest, size in sizes.items() if digest in set(digests))


def listed(store: Store) -> list[str]:
    return [reference.removeprefix("docker.io/library/") for reference, _ in stores.listed(store.layout.root)]


def fails(store: Store, *names: str, force: bool = False) -> MicropodError:
    """Fail to remove, and change nothing."""
    index_before, blobs_before = store.layout.index.read_bytes(), stores.inodes(store.layout.root)
    with pytest.raises(MicropodError) as raised:
        remove_images(store, names, force=force)
    assert store.layout.index.read_bytes() == index_before
    assert stores.inodes(store.layout.root) == blobs_before
    assert list(store.layout.staging.iterdir()) == []
    return raised.value


# By name


def test_the_last_image_takes_everything_with_it(store: Store) -> None:
    pulled(store, "app:1", APP)
    result = remove_images(store, ["app:1"])
    assert result.removed == ("docker.io/library/app:1", APP.digest)
    assert result.freed_bytes == size_of(APP, everything(APP))
    assert stores.blobs(store.layout.root) == set()
    assert listed(store) == []
    assert list(store.layout.staging.iterdir()) == []


def test_blobs_that_another_image_needs_stay(store: Store) -> None:
    pulled(store, "app:1", APP)
    pulled(store, "tool:1", TOOL)
    result = remove_images(store, ["app:1"])
    assert result.freed_bytes == size_of(APP, own(APP, TOOL))
    assert stores.blobs(store.layout.root) == everything(TOOL)
    assert stores.problems(store.layout.root) == []


def test_an_image_with_another_name_only_loses_this_one(store: Store) -> None:
    pulled(store, "app:1", APP)
    pulled(store, "app:2", APP)
    result = remove_images(store, ["app:1"])
    assert (result.removed, result.freed_bytes) == (("docker.io/library/app:1",), 0)
    assert listed(store) == ["app:2"]
    assert stores.blobs(store.layout.root) == everything(APP)


def test_all_platforms_of_a_name_go_and_the_index_that_they_came_from(store: Store) -> None:
    pulled(store, "app:1", APP, top=BOTH)
    pulled(store, "app:1", ARM64, top=BOTH)
    assert remove_images(store, ["app:1"]).removed == ("docker.io/library/app:1", APP.digest, ARM64.digest)
    assert stores.blobs(store.layout.root) == set()


def test_a_whole_index_goes_with_everything_below_it(store: Store) -> None:
    pulled(store, "app:1", BOTH)
    pulled(store, "tool:1", TOOL)
    remove_images(store, ["app:1"])
    assert stores.blobs(store.layout.root) == everything(TOOL)


def test_blobs_that_the_image_does_not_need_are_left_to_gc(store: Store) -> None:
    pulled(store, "app:1", APP)
    put_blob(store.layout.images, GARBAGE)
    remove_images(store, ["app:1"])
    assert stores.blobs(store.layout.root) == {GARBAGE.digest}


# By digest


@pytest.mark.parametrize("length", [64, 12, 4])
def test_one_platform_goes_by_its_digest_and_the_others_stay(length: int, store: Store) -> None:
    pulled(store, "app:1", APP, top=BOTH)
    pulled(store, "app:1", ARM64, top=BOTH)
    remove_images(store, [ARM64.digest[: len("sha256:") + length]])
    assert stores.listed(store.layout.root) == [("docker.io/library/app:1", APP.digest)]
    assert stores.blobs(store.layout.root) == everything(APP) | {BOTH.digest}
    assert stores.problems(store.layout.root) == []


def test_all_platforms_go_by_the_digest_of_their_index(store: Store) -> None:
    pulled(store, "app:1", APP, top=BOTH)
    pulled(store, "app:1", ARM64, top=BOTH)
    remove_images(store, [BOTH.digest])
    assert listed(store) == []


def test_a_digest_of_an_image_with_several_names_is_a_conflict_that_says_which(store: Store) -> None:
    pulled(store, "app:1", APP)
    pulled(store, "app:2", APP)
    for name in (APP.digest, f"app@{APP.digest}", APP.digest[7:20]):
        error = fails(store, name)
        assert isinstance(error, ConflictError)
        assert (error.code, error.exit_status) == ("several-references", 9)
        assert "app:1" in error.message
        assert "app:2" in error.message
        assert "--force" in (error.hint or "")


def test_force_removes_all_names_of_a_digest(store: Store) -> None:
    pulled(store, "app:1", APP)
    pulled(store, "app:2", APP)
    pulled(store, "tool:1", TOOL)
    result = remove_images(store, [APP.digest], force=True)
    assert result.removed == ("docker.io/library/app:1", "docker.io/library/app:2", APP.digest)
    assert listed(store) == ["tool:1"]


def test_one_platform_of_a_whole_index_cannot_go_alone(store: Store) -> None:
    pulled(store, "app:1", BOTH)
    for name in (ARM64.digest, f"app@{ARM64.digest}", ARM64.digest[7:20]):
        error = fails(store, name)
        assert isinstance(error, ConflictError)
        assert error.code == "part-of-an-index"
        assert "micropod-img rmi docker.io/library/app:1" in (error.hint or "")
    remove_images(store, [BOTH.digest])
    assert listed(store) == []


def test_an_ambiguous_prefix_removes_nothing(store: Store) -> None:
    prefix = APP.digest[: len("sha256:") + 4]
    twin = next(
        made
        for number in range(1_000_000)
        if (made := image([], fields={"annotations": {"n": str(number)}})).digest.startswith(prefix)
    )
    pulled(store, "app:1", APP)
    pulled(store, "app:2", twin)
    assert isinstance(fails(store, prefix), UsageError)
    assert isinstance(fails(store, prefix, force=True), UsageError)


# Several


def test_several_go_together(store: Store) -> None:
    for reference, document in {"app:1": APP, "tool:1": TOOL, "arm:1": ARM64}.items():
        pulled(store, reference, document)
    result = remove_images(store, ["app:1", "tool", "tool:1"], force=True)
    assert result.freed_bytes == sum(size_of(each, own(each, ARM64)) for each in (APP, TOOL)) - BASE.size
    assert stores.blobs(store.layout.root) == everything(ARM64)


def test_one_that_is_unknown_keeps_all_of_them(store: Store) -> None:
    pulled(store, "app:1", APP)
    pulled(store, "tool:1", TOOL)
    error = fails(store, "app:1", "unknown:1", "tool:1")
    assert isinstance(error, NotFoundError)
    assert "unknown:1" in error.message


def test_force_passes_over_what_is_unknown(store: Store) -> None:
    pulled(store, "app:1", APP)
    result = remove_images(store, ["unknown:1", "app:1", "0" * 64], force=True)
    assert result.removed == ("docker.io/library/app:1", APP.digest)


def test_an_image_that_is_named_twice_goes_once(store: Store) -> None:
    pulled(store, "app:1", APP)
    result = remove_images(store, ["app:1", "app:1", APP.digest])
    assert result.removed == ("docker.io/library/app:1", APP.digest)
    assert result.freed_bytes == size_of(APP, everything(APP))


def test_nothing_to_remove_writes_nothing(store: Store) -> None:
    pulled(store, "app:1", APP)
    before = store.layout.index.stat()
    assert remove_images(store, ["unknown:1"], force=True).removed == ()
    assert store.layout.index.stat() == before


# What is damaged


@pytest.mark.parametrize("how", ["missing", "corrupt"])
@pytest.mark.parametrize("what", ["manifest", "configuration", "layer", "index"])
def test_a_damaged_image_goes_all_the_same(how: str, what: str, store: Store) -> None:
    pulled(store, "app:1", BOTH if what == "index" else APP)
    pulled(store, "tool:1", TOOL)
    damaged = {"manifest": APP, "configuration": APP.config or APP, "layer": TOP, "index": BOTH}[what]
    path = store.layout.blob(damaged.digest)
    path.unlink()
    if how == "corrupt":
        path.write_bytes(b"{")
    assert "docker.io/library/app:1" in remove_images(store, ["app:1"]).removed
    assert listed(store) == ["tool:1"]
    collect_garbage(store)
    assert stores.blobs(store.layout.root) == everything(TOOL)


def test_an_index_none_of_whose_images_is_here_goes(store: Store) -> None:
    pulled(store, "app:1", BOTH)
    for name in ("app:1", BOTH.digest):
        pulled(store, "app:1", BOTH)
        store.layout.blob(APP.digest).unlink()
        store.layout.blob(ARM64.digest).unlink()
        remove_images(store, [name])
        assert listed(store) == []


@pytest.mark.parametrize("how", ["missing", "corrupt"])
def test_while_a_damaged_image_is_listed_nothing_is_freed_as_it_may_need_it(how: str, store: Store) -> None:
    pulled(store, "app:1", APP)
    pulled(store, "tool:1", TOOL)
    path = store.layout.blob(TOOL.digest)
    path.unlink()
    if how == "corrupt":
        path.write_bytes(b"{}")
    before = stores.blobs(store.layout.root)
    result = remove_images(store, ["app:1"])
    assert (result.removed, result.freed_bytes) == (("docker.io/library/app:1",), 0)
    with pytest.raises(IntegrityError, match=r"docker\.io/library/tool:1 is damaged") as raised:
        collect_garbage(store)
    assert "rmi" in (raised.value.hint or "")
    assert stores.blobs(store.layout.root) == before
    remove_images(store, ["tool:1"])
    collect_garbage(store)
    assert stores.blobs(store.layout.root) == set()


def test_the_bytes_that_are_freed_are_those_that_were_there(store: Store) -> None:
    pulled(store, "app:1", APP)
    os.truncate(store.layout.blob(TOP.digest), 1)
    assert remove_images(store, ["app:1"]).freed_bytes == size_of(APP, everything(APP)) - TOP.size + 1


def test_a_torn_index_removes_nothing(store: Store) -> None:
    pulled(store, "app:1", APP)
    store.layout.index.write_bytes(store.layout.index.read_bytes()[:-20])
    before = stores.blobs(store.layout.root)
    with pytest.raises(IntegrityError):
        remove_images(store, ["app:1"])
    with pytest.raises(IntegrityError):
        collect_garbage(store)
    assert stores.blobs(store.layout.root) == before


def test_a_missing_index_makes_no_blob_garbage(store: Store) -> None:
    pulled(store, "app:1", APP)
    store.layout.index.unlink()
    with pytest.raises(IntegrityError, match="is missing") as raised:
        collect_garbage(store)
    assert (raised.value.code, raised.value.exit_status) == ("missing-index", 7)
    assert stores.blobs(store.layout.root) == everything(APP)


# What other tools put there


@pytest.mark.parametrize("ref_name", ["app:1", "docker.io/library/app:1", "latest", None])
def test_an_adopted_image_goes_by_its_name_or_its_digest(ref_name: str | None, store: Store) -> None:
    put_blobs(store.layout.images, APP, TOOL)
    write_layout(store.layout.images, [listed_as(APP, ref_name), listed_as(TOOL, "tool:1")])
    remove_images(store, ["app:1" if ref_name and ":" in ref_name else APP.digest])
    assert stores.blobs(store.layout.root) == everything(TOOL)


def test_an_image_that_crane_listed_twice_goes_at_once(store: Store) -> None:
    put_blobs(store.layout.images, APP)
    write_layout(store.layout.images, [listed_as(APP, "app:1")] * 2)
    remove_images(store, ["app:1"])
    assert stores.entries(store.layout.root) == []


def test_a_partial_index_of_docker_save_stops_neither_rmi_nor_gc(store: Store) -> None:
    put_blobs(store.layout.images, APP)
    put_blob(store.layout.images, BOTH)
    write_layout(store.layout.images, [listed_as(BOTH, "app:1")])
    pulled(store, "tool:1", TOOL)
    put_blob(store.layout.images, GARBAGE)
    assert collect_garbage(store).removed == (GARBAGE.digest,)
    remove_images(store, ["app:1"])
    assert stores.blobs(store.layout.root) == everything(TOOL)


# gc


def test_gc_takes_what_no_image_needs_and_nothing_else(store: Store) -> None:
    pulled(store, "app:1", BOTH)
    put_blob(store.layout.images, GARBAGE)
    put_blobs(store.layout.images, TOOL)
    result = collect_garbage(store)
    assert set(result.removed) == own(TOOL, BOTH) | {GARBAGE.digest}
    assert result.freed_bytes == size_of(TOOL, own(TOOL, BOTH)) + GARBAGE.size
    assert stores.problems(store.layout.root) == []
    assert collect_garbage(store).removed == ()


def test_gc_leaves_what_work_in_progress_holds(store: Store) -> None:
    path = put_blob(store.layout.images, GARBAGE)
    with store.stage("pull") as staging:
        os.link(path, staging.path / "held")
        assert collect_garbage(store).removed == ()
    assert collect_garbage(store).removed == (GARBAGE.digest,)


def test_gc_takes_what_killed_pulls_left_and_had_whole(store: Store) -> None:
    blobs = store.layout.staging / "pull-1" / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / BASE.digest.removeprefix("sha256:")).write_bytes(BASE.content)
    assert collect_garbage(store).removed == (BASE.digest,)


def test_a_mount_in_between_removes_nothing(store: Store) -> None:
    pulled(store, "app:1", APP)
    script = """
import sys
from pathlib import Path
from micropod_img.errors import DiskError
from micropod_img.store.removal import remove_images
from micropod_img.store.store import Store
try:
    remove_images(Store(Path(sys.argv[1])), ["app:1"])
except DiskError as error:
    print(error.exit_status, error.code)
"""
    path = shlex.quote(str(store.layout.blobs))
    done = run_with_mounts(script, store.layout.root, mounts=[f"--bind {path} {path}"])
    assert (done.stdout, done.stderr) == ("10 several-filesystems\n", "")
    assert listed(store) == ["app:1"]
    assert stores.problems(store.layout.root) == []
