"""What a reference means: the documents on the way, and which image of an index it is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from micropod_img.cancellation import Cancellation
from micropod_img.errors import MicropodError
from micropod_img.oci import Descriptor, Manifest, parse_document
from micropod_img.pull import resolve
from micropod_img.pull.access import Access
from micropod_img.pull.crane import Crane, TimeLimits
from micropod_img.pull.crane_errors import Request
from micropod_img.pull.endpoints import Endpoint
from micropod_img.pull.resolve import Resolver
from micropod_img.reference import Reference
from micropod_img.store.blobs import BlobStore
from micropod_img.store.layout import StoreLayout
from tests.support import stores
from tests.support.faults import MANIFESTS, altered, on, silent, truncated
from tests.support.images import (
    LINUX_AMD64,
    OCI_INDEX,
    OCI_MANIFEST,
    artifact,
    attestation,
    image,
    index,
    platform_object,
)
from tests.support.images import Manifest as Made
from tests.support.layers import layer

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.service import ImageService
    from tests.support.faults import Change
    from tests.support.scripted import ScriptedRegistry

BASE = layer({"etc/motd": b"base"})
TOP = layer({"etc/issue": b"top"})
AMD64 = image([BASE])
ARM64 = image([TOP], platform="linux/arm64")
I386 = image([BASE, TOP], platform="linux/386")
S390X = image([BASE], platform="linux/s390x")


def unplaced(made: Made) -> Made:
    """Let an index say nothing of what this image runs on."""
    return replace(made, platform=None)


@pytest.mark.parametrize(
    ("offers", "platform", "chosen"),
    [
        ([AMD64, ARM64], None, AMD64),
        ([ARM64, AMD64], None, AMD64),
        ([I386, AMD64], None, AMD64),
        ([ARM64, I386], None, I386),
        ([AMD64, ARM64], "linux/arm64", ARM64),
        ([AMD64, ARM64], "linux/aarch64", ARM64),
        ([AMD64, ARM64], "linux/arm64/v8", ARM64),
        ([replace(ARM64, platform="linux/arm64/v8"), AMD64], "arm64", ARM64),
        ([replace(AMD64, platform="linux/x86_64")], "linux/amd64", AMD64),
        ([AMD64, image([TOP])], None, AMD64),  # of two that are alike, the first
        ([unplaced(ARM64), unplaced(AMD64)], None, AMD64),
        ([attestation(AMD64), AMD64], None, AMD64),
        ([unplaced(artifact()), AMD64], None, AMD64),
        ([index([S390X]), index([index([AMD64])])], None, AMD64),
    ],
)
def test_the_image_for_the_platform_is_chosen(
    offers: list[Made], platform: str | None, chosen: Made, scripted: ScriptedRegistry, service: ImageService
) -> None:
    ref = scripted.serve("some/image", "v1", index(offers))
    assert service.pull_image(ref, platform=platform).digest == chosen.digest


@pytest.mark.parametrize(
    ("top", "platform", "said"),
    [
        (index([ARM64, S390X]), None, "it is for linux/arm64, linux/s390x"),
        (index([ARM64, I386]), "linux/amd64", "it is for linux/386, linux/arm64"),
        (index([index([ARM64]), attestation(AMD64)]), None, "it is for linux/arm64"),
        (index([]), None, "it is for no platform at all"),
        (I386, "linux/amd64", "it is for linux/386"),
        (ARM64, None, "it is for linux/arm64"),
    ],
)
def test_where_none_is_for_the_platform_there_is_a_list(
    top: Made, platform: str | None, said: str, scripted: ScriptedRegistry, service: ImageService
) -> None:
    ref = scripted.serve("some/image", "v1", top)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref, platform=platform)
    assert (caught.value.code, caught.value.exit_status) == ("no-such-platform", 8)
    assert caught.value.message.startswith(f"{ref} is not for linux/amd64; ")
    assert said in caught.value.message


def test_a_lesser_image_in_a_nested_index_is_found_again(scripted: ScriptedRegistry, service: ImageService) -> None:
    ref = scripted.serve("some/image", "v1", index([index([I386]), S390X]))
    assert service.pull_image(ref).digest == I386.digest
    service.collect_garbage()
    scripted.forget_requests()
    assert service.pull_image(ref).digest == I386.digest
    assert service.get_image(ref).digest == I386.digest
    assert scripted.requests == ()


@pytest.mark.parametrize("kind", ["single", "index"])
def test_a_digest_of_what_the_registry_sends_must_be_the_one_that_was_asked_for(
    kind: str, scripted: ScriptedRegistry, service: ImageService
) -> None:
    top = AMD64 if kind == "single" else index([AMD64])
    other = image([TOP]) if kind == "single" else index([image([TOP])])
    scripted.serve("some/image", "v1", other)
    scripted.serve_manifest("some/image", top.digest, other, digest=top.digest)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(scripted.reference("some/image", top.digest))
    assert (caught.value.code, caught.value.exit_status) == ("digest-mismatch", 7)
    assert service.list_images() == []


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("change", [altered(), truncated(at=40)])
def test_a_child_with_other_bytes_is_refused(
    change: Change, scripted: ScriptedRegistry, service: ImageService, store_root: Path
) -> None:
    ref = scripted.serve("some/image", "v1", index([AMD64, ARM64]))
    scripted.faults = (on(AMD64.digest, change),)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref)
    assert caught.value.exit_status == 7
    assert stores.listed(store_root) == []


@pytest.mark.parametrize("all_platforms", [False, True])
@pytest.mark.parametrize(("child", "called"), [(AMD64, OCI_INDEX), (index([AMD64]), OCI_MANIFEST)])
@pytest.mark.parametrize("own", [False, True], ids=["says nothing itself", "says its own type"])
def test_a_child_that_is_not_what_its_index_calls_it_is_refused(  # noqa: PLR0917 - a table of three dimensions
    child: Made,
    called: str,
    own: bool,  # noqa: FBT001 - a parameter of the table
    all_platforms: bool,  # noqa: FBT001 - the same
    scripted: ScriptedRegistry,
    service: ImageService,
) -> None:
    if not own:
        kept = child.content.replace(b'"mediaType":"%s",' % child.media_type.encode(), b"", 1)
        assert kept != child.content
        child = replace(child, content=kept)
    said = {"mediaType": called, "platform": platform_object(LINUX_AMD64)}
    top = index([child], overrides={child.digest: said})
    ref = scripted.serve("some/image", "v1", top)
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref, all_platforms=all_platforms)
    assert (caught.value.code, caught.value.exit_status) == ("ambiguous-manifest", 12)
    assert service.list_images() == []


def nested(depth: int) -> Made:
    top = AMD64
    for _ in range(depth):
        top = index([top])
    return top


@pytest.mark.parametrize("all_platforms", [False, True])
def test_an_index_may_be_nested_but_not_without_end(
    all_platforms: bool,  # noqa: FBT001 - a parameter of the table
    scripted: ScriptedRegistry,
    service: ImageService,
) -> None:
    ref = scripted.serve("some/image", "v1", nested(4))
    assert service.pull_image(ref, all_platforms=all_platforms).digest == AMD64.digest
    ref = scripted.serve("some/image", "v2", nested(5))
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref, all_platforms=all_platforms)
    assert (caught.value.code, caught.value.exit_status) == ("index-too-large", 12)


@pytest.mark.parametrize("all_platforms", [False, True])
def test_an_index_of_more_documents_than_any_real_one_is_not_asked_for_all_of_them(
    all_platforms: bool,  # noqa: FBT001 - a parameter of the table
    scripted: ScriptedRegistry,
    service: ImageService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolve, "_MOST_DOCUMENTS", 4)
    many = [unplaced(image([BASE], annotations={"number": str(number)})) for number in range(20)]
    ref = scripted.serve("some/image", "v1", index(many))
    with pytest.raises(MicropodError) as caught:
        service.pull_image(ref, all_platforms=all_platforms)
    assert (caught.value.code, caught.value.exit_status) == ("index-too-large", 12)
    assert len({one.path for one in scripted.requests if f"{MANIFESTS}sha256" in one.path}) <= 4


def test_platforms_that_an_index_names_cost_no_request(scripted: ScriptedRegistry, service: ImageService) -> None:
    others = [image([BASE], platform=f"linux/arm/v{number}") for number in (5, 6, 7)]
    ref = scripted.serve("some/image", "v1", index([*others, AMD64]))
    service.pull_image(ref)
    asked = {one.path.rpartition("/")[2] for one in scripted.requests if f"{MANIFESTS}sha256" in one.path}
    assert asked == {AMD64.digest}


def test_documents_that_are_here_are_not_asked_for_again(scripted: ScriptedRegistry, service: ImageService) -> None:
    service.pull_image(scripted.serve("some/image", "v1", index([AMD64, ARM64])))
    ref = scripted.serve("some/image", "v2", index([ARM64, AMD64]))
    scripted.forget_requests()
    service.pull_image(ref)
    assert [one.path for one in scripted.requests if one.path != "/v2/"] == ["/v2/some/image/manifests/v2"]


@pytest.fixture
def resolver(scripted: ScriptedRegistry, crane: Path, tmp_path: Path) -> Resolver:
    """A resolver on an empty store, that gives up after a minute."""
    text = scripted.reference("some/image", "v1")
    endpoint = Endpoint(scripted.host, "some/image", insecure=False, is_mirror=False, reference_text=text)
    limits = TimeLimits(timeout=None, stall_timeout=60)
    return Resolver(
        Crane(crane, Access(endpoint, {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}), limits),
        BlobStore(StoreLayout(tmp_path / "empty")),
        Reference.parse(text),
        Request(text, scripted.host, "resolve"),
        Cancellation(),
    )


def test_a_document_that_cannot_be_had_ends_the_reading_of_the_others(
    scripted: ScriptedRegistry, resolver: Resolver
) -> None:
    children = [image([BASE], annotations={"number": str(number)}) for number in range(12)]
    top = index(children)
    scripted.serve("some/image", "v1", top)
    scripted.faults = (
        on(children[0].digest, truncated(at=10)),
        *(on(child.digest, silent()) for child in children[1:]),
    )
    started = time.monotonic()
    with pytest.raises(MicropodError, match="not what their digest says"):
        resolver.descendants(resolver.top(top.content))
    assert time.monotonic() - started < 5
    scripted.released.set()
    assert scripted.count(f"{MANIFESTS}sha256") <= 5


def test_descendants_come_each_once_their_index_first(scripted: ScriptedRegistry, resolver: Resolver) -> None:
    inner = index([AMD64, attestation(AMD64)])
    top = index([inner, ARM64, AMD64])
    scripted.serve("some/image", "v1", top)
    found = resolver.descendants(resolver.top(top.content))
    assert found[0].digest == top.digest
    assert sorted(one.digest for one in found) == sorted({top.digest, *(one.digest for one in top.manifests)})


def descriptor(made: Made) -> Descriptor:
    parsed = parse_document(index([made]).content, name="it")
    assert not isinstance(parsed, Manifest)
    return parsed.manifests[0]


@pytest.mark.parametrize("wrong", [1, -1])
def test_a_child_of_another_size_is_refused(wrong: int, scripted: ScriptedRegistry, resolver: Resolver) -> None:
    scripted.serve("some/image", "v1", AMD64)
    lying = descriptor(AMD64).model_copy(update={"size": AMD64.size + wrong})
    with pytest.raises(MicropodError, match=f"{AMD64.size} bytes for .*, which should have {AMD64.size + wrong}"):
        resolver.child(lying)


def test_a_configuration_that_is_larger_than_it_says_is_not_read_to_its_end(
    scripted: ScriptedRegistry, resolver: Resolver
) -> None:
    huge = image([BASE], config={"padding": "x" * (9 << 20)})
    scripted.serve("some/image", "v1", huge)
    parsed = resolver.top(huge.content).parsed
    assert isinstance(parsed, Manifest)
    with pytest.raises(MicropodError) as caught:
        resolver.config(parsed.config.model_copy(update={"size": 100}))
    assert (caught.value.code, caught.value.exit_status) == ("config-too-large", 12)


PULL_ALL = """
import sys
from micropod_img import ImageService
from micropod_img.pull.options import PullOptions
root, config, *refs = sys.argv[1:]
ImageService(root, config).pull_images(refs, PullOptions(all_platforms=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3])
def test_an_interrupt_ends_those_who_read_documents_for_a_pull(
    number: int, scripted: ScriptedRegistry, store_root: Path, config_file: Path
) -> None:
    # Each its own index, as one that another pull is fetching is waited for.
    tops = [index([AMD64, ARM64, S390X], fields={"annotations": {"number": str(each)}}) for each in range(number)]
    refs = [scripted.serve(f"some/image-{each}", "v1", top) for each, top in enumerate(tops)]
    scripted.faults = tuple(on(child.digest, silent()) for child in tops[0].children)
    argv = [sys.executable, "-c", PULL_ALL, str(store_root), str(config_file), *refs]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while scripted.count(f"{MANIFESTS}sha256") < 3 * number and time.monotonic() < deadline:
            time.sleep(0.02)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert stores.problems(store_root) == []
    assert stores.listed(store_root) == []
