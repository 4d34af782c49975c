from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import fsutil
from micropod_img.store import staging
from tests.support.interrupts import interrupt_first_call

if TYPE_CHECKING:
    from micropod_img.store.store import Store


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (Path, "mkdir"),
        (Path, "chmod"),
        (fsutil, "try_lock"),
        (fsutil, "same_file"),
        (staging, "remove_tree_if_possible"),
    ],
)
def test_an_interrupt_at_any_step_leaves_no_place(
    owner: object, step: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_first_call(monkeypatch, owner, step)
    with pytest.raises(KeyboardInterrupt), store.stage("pull"):
        pass
    assert list(store.layout.staging.iterdir()) == []
    with store.stage("pull") as place:
        assert place.path.is_dir()
