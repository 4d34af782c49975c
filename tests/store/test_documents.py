from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micropod_img import media_types
from micropod_img.errors import IntegrityError
from micropod_img.oci import parse_config, parse_document
from micropod_img.platforms import Platform
from micropod_img.store.documents import StoredIndex, StoredManifest, read_config, read_document
from micropod_img.store.images import ImageStore
from tests.support.images import artifact, image, index, schema_1
from tests.support.layers import layer
from tests.support.layouts import pulled

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.store.store import Store

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

BASE = layer({"etc/motd": b"base"})
IMAGE = image([BASE, BASE], platform="linux/arm/v7")
INDEX = index([IMAGE])
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize("docker", [False, True], ids=["OCI", "Docker"])
def test_what_pydantic_takes_at_the_pull_is_read_back_the_same_without_it(*, docker: bool) -> None:
    made = image([BASE, BASE], docker=docker, platform="linux/arm/v7")
    for document in (made, index([made], docker=docker), artifact()):
        checked = parse_document(document.content, name="x")
        read = read_document(document.content, "x")
        if isinstance(read, StoredManifest):
            listed, there = (read.config, *read.layers), (checked.config, *checked.layers)  # type: ignore[union-attr]
            assert read.is_image == checked.is_image  # type: ignore[union-attr]
        else:
            listed, there = read.manifests, checked.manifests  # type: ignore[union-attr]
        assert [(one.digest, one.size, one.media_type) for one in listed] == [
            (one.digest, one.size, one.media_type) for one in there
        ]
    assert made.config is not None
    config = read_config(made.config.content, "x")
    assert config.platform == Platform("linux", "arm", "v7") == parse_config(made.config.content, name="x").platform
    assert config.diff_ids == (BASE.diff_id, BASE.diff_id)


@pytest.mark.parametrize("document", [b'{"manifests": null}', b'{"manifests": [], "layers": [], "config": {}}'])
def test_a_document_with_manifests_is_an_index_whatever_else_it_has(document: bytes) -> None:
    assert isinstance(read_document(document, "x"), StoredIndex)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"config": null}',
        b'{"config": []}',
        b'{"config": {"digest": "sha256:../x", "size": 1}}',
        b'{"config": {"digest": "%s"}}' % DIGEST.encode(),
        b'{"config": {"digest": "%s", "size": -1}}' % DIGEST.encode(),
        b'{"config": {"digest": "%s", "size": 1.5}}' % DIGEST.encode(),
        b'{"config": {"digest": "%s", "size": 1}, "layers": {}}' % DIGEST.encode(),
        b'{"config": {"digest": "%s", "size": 1}, "layers": [7]}' % DIGEST.encode(),
        b'{"manifests": 7}',
        b'{"manifests": [null]}',
        b'{"manifests": [{"digest": "%s", "size": 1, "mediaType": []}]}' % DIGEST.encode(),
        b'{"manifests": [{"digest": "%s", "size": 1, "platform": 7}]}' % DIGEST.encode(),
        b'{"manifests": [' * 100_000,
        schema_1([BASE]).content,
    ],
)
def test_what_is_no_document_is_corrupt_and_named(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^manifest x is corrupt: ") as raised:
        read_document(content, "manifest x")
    assert (raised.value.code, raised.value.exit_status) == ("corrupt-document", 7)


@pytest.mark.parametrize(
    ("text", "created"),
    [
        ("2024-02-29T12:00:00Z", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("2024-02-29T12:00:00.123456789Z", datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2024-02-29T14:00:00+02:00", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("2024-02-29T12:00:00", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+12:00", None),
        ("9999-12-31T23:59:59-12:00", None),
        ("29 Feb 2024", None),
        ("", None),
    ],
)
def test_times_are_of_utc_and_nonsense_is_none(text: str, created: datetime | None, store: Store) -> None:
    """What is shown is an age: every time must be comparable with now."""
    pulled(store, "app:1", image([], config={"created": text}))
    images = ImageStore(store)
    (record,) = images.records(store.read_index().entries)
    assert images.image(record).created == created


NAMES = st.sampled_from(
    ["config", "layers", "manifests", "digest", "size", "mediaType", "platform", "os", "rootfs", "diff_ids", "created"]
)
LEAVES: st.SearchStrategy[Json] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([DIGEST, *media_types.INDEXES, *media_types.MANIFESTS])
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=20
)


@pytest.mark.parametrize("reader", [read_document, read_config])
@settings(max_examples=300)
@given(document=VALUES)
def test_no_json_does_worse_than_being_corrupt(reader: Callable[[bytes, str], object], document: Json) -> None:
    _corrupt_at_most(reader, json.dumps(document).encode())


@pytest.mark.parametrize("reader", [read_document, read_config])
@given(content=st.binary())
def test_no_bytes_do_worse_than_being_corrupt(reader: Callable[[bytes, str], object], content: bytes) -> None:
    _corrupt_at_most(reader, content)


def _corrupt_at_most(reader: Callable[[bytes, str], object], content: bytes) -> None:
    try:
        reader(content, "x")
    except IntegrityError as error:
        assert error.message.startswith("x is corrupt: ")  # noqa: PT017 - some of it is taken
