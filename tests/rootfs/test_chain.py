from __future__ import annotations

from micropod_img.digest import sha256_of
from micropod_img.rootfs.chain import chain_ids

ONE, TWO, THREE = (sha256_of(text) for text in (b"1", b"2", b"3"))


def test_no_layers_have_no_chain() -> None:
    assert chain_ids([]) == ()


def test_the_chain_of_one_layer_is_its_diff_id() -> None:
    assert chain_ids([ONE]) == (ONE,)


def test_each_chain_id_is_the_digest_of_the_one_below_and_the_diff_id() -> None:
    second = sha256_of(f"{ONE} {TWO}".encode())
    assert chain_ids([ONE, TWO, THREE]) == (ONE, second, sha256_of(f"{second} {THREE}".encode()))
