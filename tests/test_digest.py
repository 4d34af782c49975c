from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img.digest import hex_of, parse_digest, sha256_of
from micropod_img.errors import UsageError

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha512:{HEX * 2}"], ids=["sha256", "sha512"])
def test_a_digest_of_a_registered_algorithm_is_taken_as_it_stands(text: str) -> None:
    assert parse_digest(text) == text
    assert hex_of(parse_digest(text)) == text[7:]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(HEX, id="no algorithm"),
        pytest.param(f"sha256{HEX}", id="no colon"),
        pytest.param("sha256:", id="no digits"),
        pytest.param(f"sha256:{HEX[1:]}", id="a digit less"),
        pytest.param(f"sha256:{HEX}0", id="a digit more"),
        pytest.param(f"sha256:{HEX.upper()}", id="uppercase"),
        pytest.param(f"SHA256:{HEX}", id="uppercase algorithm"),
        pytest.param(f"sha256:{HEX[1:]}g", id="no hex digit"),
        pytest.param(f"sha256:{HEX[1:]}\N{ARABIC-INDIC DIGIT ONE}", id="a digit of another script"),
        pytest.param(f"sha256:{HEX}\n", id="a newline after it"),
        pytest.param(f" sha256:{HEX}", id="a space before it"),
        pytest.param(f"sha256:{HEX}:{HEX}", id="another digest after it"),
        pytest.param(f"sha512:{HEX}", id="sha512 of sha256's length"),
        pytest.param(f"sha1:{HEX[:40]}", id="sha1"),
        pytest.param(f"md5:{HEX[:32]}", id="md5"),
        pytest.param("sha256:" + "../" * 21 + "a", id="a path"),
        pytest.param(f"sha256:{'/' * 64}", id="slashes"),
        pytest.param(f"sha256:\0{HEX[1:]}", id="a NUL"),
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_digest(text)
    assert raised.value.code == "invalid-digest"
    assert raised.value.exit_status == 2


def test_a_refusal_does_not_repeat_megabytes_nor_terminal_controls() -> None:
    with pytest.raises(UsageError) as raised:
        parse_digest("\x1b[2J" + "x" * (1 << 20))
    assert len(raised.value.message) < 200
    assert "\x1b" not in raised.value.message


def test_the_digest_of_bytes_is_that_of_sha256sum() -> None:
    assert sha256_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_of(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.binary())
def test_the_digest_of_any_bytes_is_a_digest(content: bytes) -> None:
    assert parse_digest(sha256_of(content)) == sha256_of(content)


@given(st.text())
def test_no_text_is_anything_but_taken_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_digest(text) == text
