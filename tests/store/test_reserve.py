from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import DiskError
from micropod_img.fsutil import DISK_FULL, FreeSpace
from micropod_img.store import reserve as module
from micropod_img.store.reserve import Reserve

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.store.store import Store

MIB = 1 << 20


def blocks(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


@pytest.fixture
def reserve(tmp_path: Path) -> Reserve:
    return Reserve(tmp_path / "reserve")


def test_what_is_set_aside_takes_space_and_inodes(reserve: Reserve, tmp_path: Path) -> None:
    reserve.fill()
    assert len(list((tmp_path / "reserve").iterdir())) == 8
    assert blocks(tmp_path / "reserve") >= MIB


def test_what_was_let_go_of_is_not_set_aside_before_it_was_of_use(reserve: Reserve, tmp_path: Path) -> None:
    reserve.fill()
    assert reserve.release()
    reserve.fill()
    assert list((tmp_path / "reserve").iterdir()) == []
    reserve.restore()
    assert len(list((tmp_path / "reserve").iterdir())) == 8


def test_nothing_can_be_let_go_of_twice(reserve: Reserve, tmp_path: Path) -> None:
    assert not reserve.release()
    reserve.fill()
    assert reserve.release()
    assert not reserve.release()
    reserve.fill()
    assert len(list((tmp_path / "reserve").iterdir())) == 8


def test_nothing_is_set_aside_on_a_disk_where_others_need_what_is_left(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_space", lambda _: FreeSpace(MIB, None))
    reserve.fill()
    assert list(tmp_path.iterdir()) == []


def test_what_ends_for_another_reason_is_not_done_again(store: Store) -> None:
    done: list[str] = []

    def fails(code: str) -> None:
        done.append(code)
        raise DiskError("no", code=code)

    for code in ("read-only", DISK_FULL):
        with pytest.raises(DiskError):
            store.freeing(lambda code=code: fails(code))  # type: ignore[misc]
    assert done == ["read-only", DISK_FULL, DISK_FULL]
    assert any(store.layout.reserve.iterdir())
