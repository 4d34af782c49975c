"""What reads what somebody else wrote, given anything: a value, or an error that fits, and soon."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.soak.seeds import SEEDS
from tests.support.readers import READERS

if TYPE_CHECKING:
    from collections.abc import Sequence

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

JSON_READERS = [
    *(
        "document",
        "config",
        "process config",
        "stored document",
        "stored config",
        "index.json",
        "pod.json",
        "auth file",
    ),
]
MEMBERS = st.sampled_from(
    [
        *("schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "urls", "platform", "os"),
        *("architecture", "rootfs", "diff_ids", "annotations", "User", "Env", "Cmd", "Volumes", "Labels", "auths"),
        *("schema", "id", "ref", "image_digest", "chain_ids", "created_at", "created", "credHelpers", "auth", "x"),
    ]
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([1, 2, 1 << 63, -1, "sha256:" + "0" * 64, "sha256:../../etc", "2024-02-29T12:00:00Z", "\x1b[m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=6),
    max_leaves=15,
)

DEEP = 100_000
ODD = {
    "nothing": b"",
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"manifests":' * DEEP,
    "deep lists in a member": b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a long number": b'{"size":' + b"9" * DEEP + b"}",
    "a number beyond a double": b'{"size": 1e999999999, "schemaVersion": -1e400}',
    "names twice": b'{"schemaVersion": 2, "schemaVersion": 2, "manifests": [], "manifests": [{}]}',
    "many names": b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(20_000)) + b"}",
    "names that collide": b"{" + b",".join(b'"%d":0' % ((1 << 61) * n) for n in range(5000)) + b"}",
    "half a surrogate pair": rb'{"mediaType": "\ud800", "os": "\udfff", "id": "\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"manifests": []}',
    "UTF-16": '{"manifests": []}'.encode("utf-16"),
    "bytes that are not UTF-8": b'{"os": "\xff\xfe", "manifests": []}',
    "a NUL in a string": rb'{"os": "\u0000", "id": "\u0000", "ref": "a\u0000b"}',
    "escapes of a terminal": rb'{"\u001b]0;x\u0007": "\u202e", "manifests": "\u001b[2J"}',
    "NaN": b'{"size": NaN, "manifests": Infinity}',
    "a huge environment": json.dumps({"config": {"Env": [f"V{n}={'x' * 400}" for n in range(15_000)]}}).encode(),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("reader", JSON_READERS)
def test_odd_json_is_read_or_refused_soon(reader: str, odd: str) -> None:
    began = time.process_time()
    READERS[reader].verdict(ODD[odd])
    assert time.process_time() - began < 10


def test_every_reader_has_something_to_begin_with_and_takes_some_of_it() -> None:
    assert set(SEEDS) == set(READERS)
    for name, seeds in SEEDS.items():
        if name != "crane's log":  # which is always an error's
            assert "taken" in {READERS[name].verdict(seed) for seed in seeds}, name


@pytest.mark.parametrize("reader", READERS)
@given(st.binary(max_size=3000))
@settings(deadline=None, max_examples=60)
def test_it_gives_a_value_or_an_error_that_fits(reader: str, content: bytes) -> None:
    READERS[reader].verdict(content)


@pytest.mark.parametrize("reader", JSON_READERS)
@given(VALUES)
@example({"manifests": [{"digest": "sha256:" + "0" * 64, "size": 1, "annotations": {"a": None}}]})
@settings(deadline=None, max_examples=150)
def test_any_json_is_a_value_or_an_error_that_fits(reader: str, document: Json) -> None:
    READERS[reader].verdict(json.dumps(document).encode())


@pytest.mark.parametrize("reader", ["reference", "pod id", "platform", "digest", "users"])
@given(st.text(alphabet=st.sampled_from("aZ0/.:-_@%~\\ \n\0\x1b\u202e\ud800éK[]()")))
@settings(deadline=None, max_examples=300)
def test_any_name_stays_where_it_belongs(reader: str, text: str) -> None:
    READERS[reader].verdict(text.encode("utf-8", "surrogatepass"))


def changed(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """A good input with a few bytes changed."""

    def change(content: bytes, places: list[tuple[int, int]]) -> bytes:
        other = bytearray(content)
        for place, byte in places:
            other[place % len(other)] = byte
        return bytes(other)

    places = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=5)
    return st.builds(change, st.sampled_from(seeds), places)


@pytest.mark.parametrize("reader", READERS)
@given(st.data())
@settings(deadline=None, max_examples=60)
def test_no_changed_byte_does_worse_than_being_refused(reader: str, data: st.DataObject) -> None:
    READERS[reader].verdict(data.draw(changed(SEEDS[reader])))
