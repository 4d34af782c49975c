from __future__ import annotations

import os
from typing import TYPE_CHECKING

from micropod_img.store.store import Store
from micropod_img.store.trees import disk_usage, remove_tree, remove_tree_if_possible

if TYPE_CHECKING:
    from pathlib import Path


def make_deep(directory: Path, levels: int = 3000) -> None:
    directory.mkdir()
    descriptor = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)


def test_a_tree_deeper_than_python_can_go_is_removed(tmp_path: Path) -> None:
    for number, remove in enumerate((remove_tree, remove_tree_if_possible)):
        make_deep(tmp_path / str(number))
        remove(tmp_path / str(number))
    assert list(tmp_path.iterdir()) == []


def test_a_deep_tree_that_was_left_behind_keeps_nobody_from_work(store_root: Path) -> None:
    store = Store(store_root)
    store.prepare()
    make_deep(store_root / "tmp/left-behind")
    store.prepare()
    assert list((store_root / "tmp").iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/out").symlink_to(tmp_path)
    remove_tree(tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert 1 << 20 <= disk_usage(tmp_path) < 2 << 20
