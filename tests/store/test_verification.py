"""`verify` on images: each kind of damage is found, named, and laid at the door of those whom it hurts."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from micropod_img.cancellation import Cancellation
from micropod_img.problems import in_order
from micropod_img.progress import VerifyProgress, VerifyStarted, silent
from micropod_img.store.store import Store
from micropod_img.store.verification.verify import StoreVerification
from tests.store import damage
from tests.support.images import OCI_INDEX, OCI_MANIFEST, artifact, attestation, image, index
from tests.support.layers import Blob, layer, random_layer
from tests.support.layouts import listed_as, pulled, put_blob, put_blobs, write_layout
from tests.support.processes import require_program, run
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from micropod_img.problems import Problem
    from micropod_img.progress import Event
    from tests.store.damage import Damage
    from tests.support.images import Manifest
    from tests.support.registries import Registry

BASE, TOP = layer({"etc/motd": b"base"}), random_layer(3000)
AMD64 = image([BASE, TOP])
ARM64 = image([BASE], platform="linux/arm64")
BOTH = index([AMD64, ARM64, attestation(AMD64)])
OTHER = image([BASE, layer({"etc/hosts": b"other"})])
ONE, WHOLE, ANOTHER = "docker.io/library/one:1", "docker.io/library/whole:1", "docker.io/library/other:1"


@pytest.fixture
def store(store_root: Path) -> Store:
    """A store with one image of an index, all of the index, and another image; they share a layer."""
    store = Store(store_root)
    pulled(store, "one:1", AMD64, top=BOTH)
    pulled(store, "whole:1", BOTH)
    pulled(store, "other:1", OTHER)
    return store


def found(root: Path) -> tuple[Problem, ...]:
    store = Store(root, damaged=True)
    return in_order(list(StoreVerification(store, silent, Cancellation()).run().problems))


def unlisted(store: Store) -> tuple[str, ...]:
    return StoreVerification(store, silent, Cancellation()).run().unlisted


def codes(root: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.code, one.images) for one in found(root)]


def test_a_store_as_pulls_leave_it_has_no_problem_and_is_not_written(store: Store) -> None:
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in store.layout.root.rglob("*"))
    assert found(store.layout.root) == ()
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in store.layout.root.rglob("*")) == before


def test_a_store_that_a_killed_process_was_making_has_no_problem(store_root: Path) -> None:
    for name in ("locks", "tmp", "images/blobs/sha256"):
        (store_root / name).mkdir(parents=True)
    assert found(store_root) == ()


def test_a_directory_with_no_store_in_it_has_no_problem_and_stays_as_it_is(store_root: Path) -> None:
    assert found(store_root) == ()
    assert list(store_root.iterdir()) == []


BLOBS: dict[str, tuple[Damage, str, tuple[str, ...]]] = {
    "an empty layer": (damage.emptied(TOP), "corrupt-blob", (ONE, WHOLE)),
    "a layer cut short": (damage.cut_short(TOP), "corrupt-blob", (ONE, WHOLE)),
    "a layer of the right size": (damage.flipped(TOP), "corrupt-blob", (ONE, WHOLE)),
    "a layer that all share": (damage.flipped(BASE), "corrupt-blob", (ONE, ANOTHER, WHOLE)),
    "a missing layer": (damage.removed(TOP), "missing-blob", (ONE, WHOLE)),
    "a missing configuration": (damage.removed(OTHER.blobs[0]), "missing-blob", (ANOTHER,)),
    "a changed configuration": (damage.flipped(OTHER.blobs[0]), "corrupt-blob", (ANOTHER,)),
    "a missing manifest": (damage.removed(OTHER), "missing-blob", (ANOTHER,)),
    "a changed manifest": (damage.flipped(OTHER), "corrupt-blob", (ANOTHER,)),
    "a missing manifest of an index": (damage.removed(ARM64), "missing-blob", (WHOLE,)),
    "a missing index": (damage.removed(BOTH), "missing-blob", (ONE, WHOLE)),
    "a changed index": (damage.flipped(BOTH), "corrupt-blob", (ONE, WHOLE)),
    "a directory": (damage.made_a_directory(TOP), "not-a-file", (ONE, WHOLE)),
    "a link": (damage.made_a_link(TOP), "not-a-file", (ONE, WHOLE)),
    "a link for a manifest": (damage.made_a_link(OTHER), "not-a-file", (ANOTHER,)),
    "a pipe": (damage.made_a_fifo(TOP), "not-a-file", (ONE, WHOLE)),
    "a blob that anybody may write": (damage.with_mode(TOP, 0o666), "wrong-mode", ()),
    "a blob that nobody may read": (damage.with_mode(TOP, 0), "wrong-mode", ()),
    "a setuid blob": (damage.with_mode(TOP, 0o4644), "wrong-mode", ()),
}


@pytest.mark.parametrize(("done", "code", "images"), BLOBS.values(), ids=BLOBS)
def test_a_damaged_blob_is_found_with_all_images_that_need_it(
    done: Damage, code: str, images: tuple[str, ...], store: Store
) -> None:
    done(store.layout.root)
    (problem,) = found(store.layout.root)
    assert (problem.code, set(problem.images)) == (code, set(images))
    assert problem.path == str(store.layout.blob(problem.digest)) if problem.digest else False
    assert problem.severity == ("serious" if images else "minor")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_blob_of_another_user_is_found(store: Store) -> None:
    os.chown(damage.blob(store.layout.root, TOP), 1234, -1)
    assert codes(store.layout.root) == [("wrong-owner", ())]


INDEXES: dict[str, bytes | float] = {
    "nothing": b"",
    "zero bytes": bytes(4096),
    "its first byte": b"{",
    "a quarter of it": 0.25,
    "half of it": 0.5,
    "all but its end": 0.99,
    "garbage": bytes(range(256)),
    "invalid UTF-8": b'{"schemaVersion": 2, "manifests": [], "x": "\xff\xfe"}',
    "deep nesting": b'{"manifests": ' + b"[" * 100_000,
    "a list": b"[]",
    "no list of manifests": b'{"schemaVersion": 2}',
    "manifests that are no list": b'{"schemaVersion": 2, "manifests": {}}',
    "a huge number": b'{"manifests": [' + b"1" * 5000 + b"]",
}


@pytest.mark.parametrize("content", INDEXES.values(), ids=INDEXES)
def test_a_torn_index_is_the_one_problem(content: bytes | float, store: Store) -> None:
    tear = damage.index_is(content) if isinstance(content, bytes) else damage.index_cut_to(content)
    tear(store.layout.root)
    (problem,) = found(store.layout.root)
    assert (problem.code, problem.path, problem.severity) == ("corrupt-index", str(store.layout.index), "critical")
    assert problem.message.isprintable()
    assert set(unlisted(store)) == {BOTH.digest, OTHER.digest}


def test_a_missing_index_is_the_one_problem(store: Store) -> None:
    store.layout.index.unlink()
    assert codes(store.layout.root) == [("missing-index", ())]


ENTRIES: dict[str, tuple[Damage, Sequence[tuple[str, tuple[str, ...]]]]] = {
    "no digest": (damage.entry_changed(2, digest="sha256:12"), [("corrupt-entry", (ANOTHER,))]),
    "no size": (damage.entry_changed(2, size=None), [("corrupt-entry", (ANOTHER,))]),
    "no object": (damage.entry_added("sha256"), [("corrupt-entry", ())]),
    "an annotation that is no text": (damage.entry_added({"annotations": {"a": 1}}), [("corrupt-entry", ())]),
    "another size": (damage.entry_changed(2, size=7), [("entry-size", (ANOTHER,))]),
    "an index's type": (damage.entry_changed(2, mediaType=OCI_INDEX), [("entry-media-type", (ANOTHER,))]),
    "a manifest's type": (damage.entry_changed(1, mediaType=OCI_MANIFEST), [("entry-media-type", (WHOLE,))]),
    "an unknown type": (damage.entry_changed(2, mediaType="text/x"), [("entry-media-type", (ANOTHER,))]),
    "no type": (damage.entry_changed(2, mediaType=None), [("entry-media-type", (ANOTHER,))]),
    "half a platform": (damage.entry_changed(2, platform={"os": "linux"}), [("entry-platform", (ANOTHER,))]),
    "another platform than its index says": (
        damage.entry_changed(0, platform={"os": "linux", "architecture": "s390x"}),
        [("entry-platform", (ONE,))],
    ),
    "another platform than its configuration says": (
        damage.entry_changed(2, platform={"os": "linux", "architecture": "s390x"}),
        [("entry-platform", (ANOTHER,))],
    ),
    "the same twice": (damage.entry_repeated(2), [("duplicate-entry", (ANOTHER,))]),
    "two images of one name and platform": (
        damage.entry_repeated(2, digest=AMD64.digest, size=AMD64.size),
        [("ref-name", (ANOTHER,)), ("duplicate-entry", (ANOTHER,))][::-1],
    ),
    "an image beside the whole index": (
        damage.entry_repeated(1, digest=ARM64.digest, size=ARM64.size, mediaType=OCI_MANIFEST),
        [("duplicate-entry", (WHOLE,)), ("ref-name", (WHOLE,))],
    ),
    "no name": (
        damage.entry_annotated(2, org__opencontainers__image__ref__name=None),
        [("ref-name", (ANOTHER,))],
    ),
    "two names": (
        damage.entry_annotated(2, org__opencontainers__image__ref__name="elsewhere"),
        [("ref-name", (ANOTHER,))] * 2,
    ),
    "a reference that is none": (
        damage.entry_annotated(2, io__micropod__reference="A//b"),
        [("entry-annotation", (ANOTHER,)), ("ref-name", ("A//b",)), ("ref-name", ("A//b",))],
    ),
    "an index digest that is none": (
        damage.entry_annotated(0, io__micropod__index_digest="x"),
        [("entry-annotation", (ONE,))],
    ),
    "a time that is none": (
        damage.entry_annotated(2, io__micropod__pulled_at="yesterday"),
        [("entry-annotation", (ANOTHER,))],
    ),
}


@pytest.mark.parametrize(("done", "expected"), ENTRIES.values(), ids=ENTRIES)
def test_a_wrong_entry_is_found(done: Damage, expected: Sequence[tuple[str, tuple[str, ...]]], store: Store) -> None:
    done(store.layout.root)
    assert codes(store.layout.root) == list(expected)
    assert {one.path for one in found(store.layout.root)} <= {
        str(store.layout.index),
        str(store.layout.blob(OTHER.digest)),
    }


def test_an_entry_of_an_unknown_type_is_another_tools_business(store: Store) -> None:
    notes = Blob("application/xml", b"<notes/>")
    put_blob(store.layout.images, notes)
    damage.entry_added(notes.descriptor)(store.layout.root)
    assert found(store.layout.root) == ()
    damage.flipped(notes)(store.layout.root)
    assert codes(store.layout.root) == [("corrupt-blob", (notes.digest,))]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        pytest.param(Blob(OCI_MANIFEST, b"not JSON"), "corrupt-document", id="no JSON"),
        pytest.param(Blob(OCI_MANIFEST, b"{}"), "corrupt-document", id="no manifest"),
        pytest.param(Blob(OCI_MANIFEST, b'{"config":' * 50_000), "corrupt-document", id="deep nesting"),
        pytest.param(image([BASE], diff_ids=[]), "diff-id-count", id="fewer diff IDs than layers"),
        pytest.param(
            index([AMD64], overrides={AMD64.digest: {"size": 7}}), "wrong-size", id="an index that says another size"
        ),
    ],
)
def test_a_document_that_is_whole_and_wrong_is_found(document: Manifest, code: str, store: Store) -> None:
    put_blobs(store.layout.images, *([document] if isinstance(document, type(AMD64)) else []))
    put_blob(store.layout.images, document)
    damage.entry_added(document.descriptor)(store.layout.root)
    assert codes(store.layout.root) == [
        (code, (document.digest,)) if code != "wrong-size" else (code, (ONE, WHOLE, document.digest))
    ]


def test_what_no_image_needs_is_read_all_the_same(store: Store) -> None:
    spare = random_layer(1000)
    put_blob(store.layout.images, spare)
    assert found(store.layout.root) == ()
    damage.flipped(spare)(store.layout.root)
    (problem,) = found(store.layout.root)
    assert (problem.code, problem.images, problem.severity) == ("corrupt-blob", (), "minor")


def test_artifacts_and_images_that_nothing_lists_are_no_problem(store: Store) -> None:
    chart, killed = artifact(), image([random_layer(100)])
    put_blobs(store.layout.images, chart, killed)
    damage.entry_added(chart.descriptor)(store.layout.root)
    assert found(store.layout.root) == ()
    assert unlisted(store) == (killed.digest,)


FILES: dict[str, tuple[str, str]] = {
    "images/blobs/sha256/" + "a" * 64 + "123": ("misnamed-blob", "minor"),
    "images/oci-put-blob123": ("foreign-file", "minor"),
    "notes.txt": ("foreign-file", "minor"),
    "images/oci-layout": ("corrupt-layout", "serious"),
    "version": ("corrupt-version", "critical"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_of_a_store_or_torn_is_found(name: str, store: Store) -> None:
    path = store.layout.root / name
    path.write_bytes(b"{")
    assert [(one.code, one.severity, one.path) for one in found(store.layout.root)] == [(*FILES[name], str(path))]


def test_a_file_that_another_program_is_writing_is_left_to_it(store: Store) -> None:
    path = store.layout.blobs / ("a" * 64 + "123")
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; f = open(sys.argv[1], 'w'); print(flush=True); sys.stdin.read()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert found(store.layout.root) == ()
        writer.communicate()
    assert codes(store.layout.root) == [("misnamed-blob", ())]


@pytest.mark.parametrize(
    ("name", "mode"), [("", 0o755), ("images", 0o777), ("tmp", 0o777), ("images/blobs/sha256", 0o722)]
)
def test_a_directory_that_is_open_to_others_is_found(name: str, mode: int, store: Store) -> None:
    (store.layout.root / name).chmod(mode)
    assert codes(store.layout.root) == [("wrong-mode", ())]


def test_the_worst_comes_first(store: Store) -> None:
    damage.entry_repeated(2)(store.layout.root)
    damage.removed(TOP)(store.layout.root)
    damage.flipped(BASE)(store.layout.root)
    damage.entry_added("x")(store.layout.root)
    assert [one.code for one in found(store.layout.root)] == [
        "corrupt-entry",
        "corrupt-blob",
        "missing-blob",
        "duplicate-entry",
    ]


def test_progress_is_told_of_all_bytes(store: Store) -> None:
    events: list[Event] = []
    verification = StoreVerification(store, events.append, Cancellation())
    verification.run()
    whole = sum(path.stat().st_size for path in store.layout.blobs.iterdir())
    assert events[0] == VerifyStarted(len(list(store.layout.blobs.iterdir())), whole)
    assert events[-1] == VerifyProgress(whole, whole)
    assert verification.blobs.bytes_read == whole


# Layouts of other tools


def test_what_crane_and_skopeo_wrote_has_no_problem(
    crane: Path, crane_registry: Registry, repository: str, store_root: Path
) -> None:
    source = push(crane_registry, repository, "1", BOTH)
    layout = store_root / "images"
    run(crane, "pull", "--format=oci", "--annotate-ref", source, layout).check_returncode()
    skopeo = require_program("skopeo", package="skopeo")
    copy = [skopeo, "copy", "--src-tls-verify=false", "--override-arch=amd64", f"docker://{source}"]
    run(*copy, f"oci:{layout}:theirs:1").check_returncode()
    assert found(store_root) == ()
    Store(store_root).prepare()
    assert found(store_root) == ()


def test_a_part_of_an_index_that_another_tool_copied_has_no_problem(store_root: Path) -> None:
    put_blobs(store_root / "images", AMD64)
    put_blob(store_root / "images", BOTH)
    write_layout(store_root / "images", [listed_as(BOTH, "some:1")])
    assert found(store_root) == ()


def test_what_crane_repeats_is_found_once(
    crane: Path, crane_registry: Registry, repository: str, store_root: Path
) -> None:
    source = push(crane_registry, repository, "1", AMD64)
    for _ in range(3):
        run(crane, "pull", "--format=oci", source, store_root / "images").check_returncode()
    assert codes(store_root) == [("duplicate-entry", (AMD64.digest,))]


# Beside others

CHURN = """
import sys
from pathlib import Path
from micropod_img.store.removal import collect_garbage, remove_images
from micropod_img.store.store import Store
from tests.store.test_verification import churning
from tests.support.publishing import publish
store = Store(Path(sys.argv[1]))
print(flush=True)
while True:
    for number in range(4):
        publish(store, f"churn:{sys.argv[2]}", churning(number))
        if number % 2:
            collect_garbage(store)
    remove_images(store, [f"churn:{sys.argv[2]}"])
"""


def churning(number: int) -> Manifest:
    return image([BASE, layer({f"churn{number}": bytes(20_000)})])


@pytest.mark.slow
def test_nothing_that_others_do_meanwhile_is_called_a_problem(store: Store) -> None:
    others: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(2):
            argv = [sys.executable, "-c", CHURN, str(store.layout.root), str(number)]
            others.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        for _ in range(15):
            assert found(store.layout.root) == ()
        assert [other.poll() for other in others] == [None, None]
    finally:
        for other in others:
            other.kill()
            other.communicate()
    store.prepare()
    assert found(store.layout.root) == ()
