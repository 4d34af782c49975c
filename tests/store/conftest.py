from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.store.images import ImageStore
from micropod_img.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(store_root: Path) -> Store:
    """A store with nothing in it, ready to be written."""
    store = Store(store_root)
    store.prepare()
    return store


@pytest.fixture
def images(store: Store) -> ImageStore:
    """The images of that store."""
    return ImageStore(store)
