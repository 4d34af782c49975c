from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img import media_types
from micropod_img.digest import Digest
from micropod_img.errors import IntegrityError
from micropod_img.platforms import Platform, host_platform
from micropod_img.reference import Reference
from micropod_img.store.index import (
    INDEX_DIGEST,
    PULLED_AT,
    REF_NAME,
    REFERENCE,
    Entry,
    LayoutIndex,
    new_entry,
    parse_index,
    renamed,
    serialize,
    with_entries,
    without,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

HOST = host_platform()
OTHER = Platform("linux", "s390x" if HOST.architecture != "s390x" else "riscv64")
THIRD = Platform("windows", "amd64", os_version="10.0.20348.1")
ALPINE = "docker.io/library/alpine:latest"
EMPTY = LayoutIndex((), {})


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def ours(
    number: int,
    platform: Platform | None = HOST,
    *,
    reference: str = ALPINE,
    media_type: str = media_types.OCI_MANIFEST,
) -> Entry:
    return new_entry(
        reference=Reference.parse(reference),
        digest=digest(number),
        media_type=media_type,
        size=100 + number,
        platform=platform,
        index_digest=None,
        pulled_at="2024-03-01T08:30:00+00:00",
    )


def whole(number: int, *, reference: str = ALPINE) -> Entry:
    return ours(number, None, reference=reference, media_type=media_types.OCI_INDEX)


def theirs(number: int = 1, *, annotations: dict[str, Json] | None = None, **members: Json) -> dict[str, Json]:
    """A descriptor as another tool writes it."""
    usual: dict[str, Json] = {"mediaType": media_types.OCI_MANIFEST, "digest": digest(number), "size": 1}
    return {**usual, **({} if annotations is None else {"annotations": annotations}), **members}


def read(*listed: dict[str, Json], **members: Json) -> LayoutIndex:
    return parse_index(json.dumps({"schemaVersion": 2, "manifests": listed, **members}).encode(), name="index.json")


def entry(annotations: dict[str, Json] | None) -> Entry:
    return read(theirs(annotations=annotations)).entries[0]


def written(index: LayoutIndex) -> dict[str, Json]:
    document = json.loads(serialize(index))
    assert isinstance(document, dict)
    return document


def names(index: LayoutIndex) -> list[str | None]:
    """``ref.name`` of each descriptor as it is written."""
    listed = written(index)["manifests"]
    assert isinstance(listed, list)
    return [_annotations(one).get(REF_NAME) for one in listed]


def _annotations(descriptor: Json) -> dict[str, str]:
    assert isinstance(descriptor, dict)
    annotations = descriptor.get("annotations", {})
    assert isinstance(annotations, dict)
    return {key: value for key, value in annotations.items() if isinstance(value, str)}


# What a descriptor is called


@pytest.mark.parametrize(
    ("annotations", "reference"),
    [
        pytest.param(None, "", id="no annotations"),
        pytest.param({}, "", id="none of them a name"),
        pytest.param({REF_NAME: ""}, "", id="an empty name"),
        pytest.param({REF_NAME: "latest"}, "", id="a bare tag"),
        pytest.param({REF_NAME: "3.20"}, "", id="a bare version"),
        pytest.param({REF_NAME: "alpine:3"}, "docker.io/library/alpine:3", id="name and tag"),
        pytest.param({REF_NAME: "grafana/grafana"}, "docker.io/grafana/grafana:latest", id="user and name"),
        pytest.param({REF_NAME: ALPINE}, ALPINE, id="canonical"),
        pytest.param({REF_NAME: "index.docker.io/library/alpine:3"}, "docker.io/library/alpine:3", id="crane's domain"),
        pytest.param({REF_NAME: "localhost:5000/app:1"}, "localhost:5000/app:1", id="port"),
        pytest.param({REF_NAME: "Not:A:Reference"}, "", id="no reference"),
        pytest.param({REF_NAME: "../../etc/passwd"}, "", id="a path"),
        pytest.param({REF_NAME: "x/\x1b[2J"}, "", id="a terminal's control"),
        pytest.param({REFERENCE: ALPINE}, ALPINE, id="ours"),
        pytest.param({REFERENCE: ALPINE, REF_NAME: "other:1"}, ALPINE, id="ours and another"),
        pytest.param({REFERENCE: "\x1b[2J", REF_NAME: ALPINE}, "", id="ours, by somebody else"),
    ],
)
def test_a_descriptor_is_called_what_it_says_if_that_is_a_reference(
    annotations: dict[str, Json] | None, reference: str
) -> None:
    assert entry(annotations).reference == reference


def test_an_image_comes_from_the_index_that_is_noted_or_that_it_is_itself() -> None:
    assert entry(None).index_digest is None
    assert entry({INDEX_DIGEST: digest(7)}).index_digest == digest(7)
    assert entry({INDEX_DIGEST: "nonsense"}).index_digest is None
    assert whole(5).index_digest == digest(5)


def test_a_descriptor_of_another_tool_was_never_pulled() -> None:
    assert entry(None).pulled_at == ""
    assert entry({PULLED_AT: "2024"}).pulled_at == "2024"


# What is read


WRONG: list[dict[str, Json]] = [
    {"digest": "sha256:../../x"},
    {"digest": None},
    {"size": -1},
    {"size": 1.5},
    {"size": "1"},
    {"size": True},
    {"mediaType": 7},
    {"platform": "linux/amd64"},
    {"platform": {"os": 7}},
    {"annotations": []},
    {"annotations": {REF_NAME: 7}},
]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 512, id="zeros, after a power cut"),
        pytest.param(b'{"schemaVersion": 2, "manifests": [{"digest": "sha2', id="cut short"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no list of manifests"),
        pytest.param(b'{"manifests": {}}', id="an object of manifests"),
        pytest.param(b'{"manifests": [null]}', id="a null descriptor"),
        pytest.param(b'{"manifests": ["sha256:00"]}', id="a string as descriptor"),
        pytest.param(b'{"manifests": [{}]}', id="an empty descriptor"),
        pytest.param(b"\xff", id="no UTF-8"),
        pytest.param(b"[" * 100_000, id="deep"),
        *(pytest.param(json.dumps({"manifests": [{**theirs(), **one}]}).encode(), id=f"{one}"[1:-1]) for one in WRONG),
    ],
)
def test_a_torn_index_is_an_error_that_names_the_file(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^/store/images/index\.json ") as raised:
        parse_index(content, name="/store/images/index.json")
    assert raised.value.exit_status == 7


def test_an_index_that_lists_nothing_is_empty() -> None:
    assert read().entries == ()
    assert parse_index(b'{"schemaVersion": 2, "manifests": null}', name="x").entries == ()


# What is written


def test_what_is_written_is_an_oci_index() -> None:
    document = written(with_entries(EMPTY, [ours(1, THIRD)]))
    assert (document["schemaVersion"], document["mediaType"]) == (2, media_types.OCI_INDEX)
    assert document["manifests"] == [
        {
            "mediaType": media_types.OCI_MANIFEST,
            "digest": digest(1),
            "size": 101,
            "platform": {"os": "windows", "architecture": "amd64", "os.version": "10.0.20348.1"},
            "annotations": {
                REF_NAME: ALPINE,
                REFERENCE: ALPINE,
                PULLED_AT: "2024-03-01T08:30:00+00:00",
            },
        }
    ]


def test_what_other_tools_wrote_is_kept_as_it_is() -> None:
    listed: list[dict[str, Json]] = [
        theirs(1, annotations={REF_NAME: "latest", "com.example": "x"}, urls=["https://example.com"], data="e30="),
        theirs(2, annotations={REF_NAME: "docker.io/library/busybox:1"}),
        theirs(3, annotations={}, artifactType="application/vnd.example", future={"deep": [1, None]}),
        theirs(4, platform={"os": "linux", "architecture": "arm", "variant": "v7", "os.features": ["x"]}),
        theirs(5, annotations={REF_NAME: "half \ud800 a pair, and é"}),
        theirs(1, annotations={REF_NAME: "latest", "com.example": "x"}),  # crane lists an image as often as it pulls it
    ]
    members: dict[str, Json] = {"annotations": {"com.example.layout": "y"}, "future": [{"a": 1}]}
    index = with_entries(read(*listed, **members), [ours(9)])
    document = written(index)
    kept = document.pop("manifests")
    assert isinstance(kept, list)
    assert kept[:-1] == listed
    assert document == {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, **members}


def test_what_was_written_is_read_back_the_same() -> None:
    index = with_entries(read(theirs(5, annotations={REF_NAME: "latest"})), [ours(1), ours(2, OTHER), ours(3, THIRD)])
    again = parse_index(serialize(index), name="index.json")
    assert serialize(again) == serialize(index)
    assert [(one.digest, one.reference, one.platform) for one in again.entries] == [
        (digest(5), "", None),
        (digest(1), ALPINE, HOST),
        (digest(2), ALPINE, OTHER),
        (digest(3), ALPINE, THIRD),
    ]


# ref.name stands on one descriptor of each reference


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param([ours(1, OTHER), ours(2, HOST)], [None, ALPINE], id="the host's platform first"),
        pytest.param([ours(1, HOST), ours(2, OTHER)], [ALPINE, None], id="wherever it stands"),
        pytest.param([ours(1, OTHER), ours(2, THIRD)], [ALPINE, None], id="without the host's, the first"),
        pytest.param([ours(1, None), ours(2, HOST, reference="b")], [ALPINE, "docker.io/library/b:latest"], id="each"),
        pytest.param([whole(1)], [ALPINE], id="a whole index"),
    ],
)
def test_each_reference_is_the_name_of_one_descriptor(entries: Sequence[Entry], expected: list[str | None]) -> None:
    assert names(LayoutIndex(tuple(entries), {})) == expected


def test_the_name_goes_on_to_another_platform_when_its_bearer_is_removed() -> None:
    index = parse_index(serialize(with_entries(EMPTY, [ours(1, HOST), ours(2, OTHER)])), name="x")
    assert names(without(index, lambda one: one.platform == HOST)) == [ALPINE]


def test_another_tools_descriptor_of_our_name_is_one_of_our_references_and_is_not_ambiguous() -> None:
    """Skopeo calls two descriptors of one name ambiguous."""
    adopted = theirs(1, annotations={REF_NAME: ALPINE}, platform={"os": "linux", "architecture": OTHER.architecture})
    index = with_entries(read(adopted), [ours(2, HOST)])
    assert names(index) == [None, ALPINE]
    again = parse_index(serialize(index), name="x")
    assert [one.reference for one in again.entries] == [ALPINE, ALPINE]


def test_another_tools_name_that_merely_means_the_same_stays() -> None:
    adopted = theirs(1, annotations={REF_NAME: "alpine:latest"}, platform={"os": "linux", "architecture": "s390x"})
    assert names(with_entries(read(adopted), [ours(2, Platform("linux", "mips"))])) == ["alpine:latest", ALPINE]


def test_a_name_of_ours_that_is_no_reference_is_given_to_nobody() -> None:
    index = read(theirs(1, annotations={REFERENCE: "!"}), theirs(2, annotations={REFERENCE: "!"}))
    assert names(index) == [None, None]


# What replaces what


@pytest.mark.parametrize(
    ("before", "added", "left"),
    [
        pytest.param([ours(1)], ours(2), [2], id="the same platform"),
        pytest.param([ours(1)], ours(2, OTHER), [1, 2], id="another platform"),
        pytest.param([ours(1)], ours(2, reference="b"), [1, 2], id="another reference"),
        pytest.param([ours(1), ours(2, OTHER)], whole(3), [3], id="a whole index, all platforms"),
        pytest.param([whole(1)], whole(2), [2], id="a whole index, another one"),
        pytest.param([whole(1)], ours(2), [2], id="one platform, a whole index"),
        pytest.param([whole(1, reference="b")], whole(2), [1, 2], id="a whole index of another reference"),
        pytest.param([ours(1, None)], ours(2), [2], id="what runs on nobody knows what"),
        pytest.param(
            [ours(1, Platform("linux", "arm64", "v8"))],
            ours(2, Platform("linux", "aarch64")),
            [2],
            id="the same platform spelt otherwise",
        ),
        pytest.param(
            [ours(1, Platform("linux", "arm", "v6"))],
            ours(2, Platform("linux", "arm", "v7")),
            [1, 2],
            id="another variant",
        ),
    ],
)
def test_an_entry_replaces_those_of_its_reference_and_platform(
    before: Sequence[Entry], added: Entry, left: list[int]
) -> None:
    index = with_entries(LayoutIndex(tuple(before), {}), [added])
    assert [one.digest for one in index.entries] == [digest(number) for number in left]


def test_an_image_of_another_tool_without_a_name_is_replaced_by_nothing() -> None:
    index = with_entries(read(theirs(1), theirs(2, annotations={REF_NAME: "latest"})), [ours(3), whole(4)])
    assert [one.digest for one in index.entries] == [digest(1), digest(2), digest(4)]


def test_a_renamed_entry_is_of_the_same_image_and_bears_no_old_name() -> None:
    old = entry({REF_NAME: "old:1", INDEX_DIGEST: digest(7), "com.example": "x"})
    new = renamed(old, Reference.parse("new:2"))
    assert new.reference == "docker.io/library/new:2"
    assert (new.digest, new.index_digest, new.annotations["com.example"]) == (old.digest, digest(7), "x")
    assert names(LayoutIndex((old, new), {})) == ["old:1", "docker.io/library/new:2"]


# Anything at all

PLATFORMS = st.sampled_from([None, HOST, OTHER, THIRD])
OURS = st.builds(
    ours,
    st.integers(0, 9),
    PLATFORMS,
    reference=st.sampled_from(["a", "b:1"]),
    media_type=st.just(media_types.OCI_MANIFEST),
)
WHOLE = st.builds(whole, st.integers(0, 9), reference=st.sampled_from(["a", "b:1"]))
NAMES = st.sampled_from(["latest", "a", "a:latest", "docker.io/library/a:latest", "docker.io/library/b:1", "?", ""])
THEIRS = st.builds(
    lambda number, name: read(theirs(number, annotations={REF_NAME: name})).entries[0], st.integers(0, 9), NAMES
)


@given(there=st.lists(THEIRS, max_size=4), added=st.lists(OURS | WHOLE, max_size=6))
def test_whatever_is_listed_every_reference_of_ours_is_the_name_of_one_descriptor(
    there: list[Entry], added: list[Entry]
) -> None:
    index = with_entries(LayoutIndex(tuple(there), {}), added)
    named = names(index)
    for one in index.entries:
        if REFERENCE in one.annotations:
            assert named.count(one.reference) == 1
    again = parse_index(serialize(index), name="x")
    assert [(one.digest, one.reference) for one in again.entries] == [
        (one.digest, one.reference) for one in index.entries
    ]
    assert serialize(again) == serialize(index)


@given(st.binary())
def test_no_bytes_do_worse_than_being_torn(content: bytes) -> None:
    try:
        parse_index(content, name="x")
    except IntegrityError as error:
        assert error.message.startswith("x ")  # noqa: PT017 - most bytes are torn, and some are not
