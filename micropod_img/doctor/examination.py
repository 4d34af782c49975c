"""All that is looked at, in an order in which it can be put right."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img.config import Config, load_config, store_root
from micropod_img.diagnosis import Diagnosis, Finding, problem
from micropod_img.doctor import machine, root_filesystems, settings, store_state, users
from micropod_img.errors import ConflictError, MicropodError
from micropod_img.rootfs.invoker import invoking_uid
from micropod_img.store.store import Store
from micropod_img.store.trees import remove_tree_if_possible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.store.layout import StoreLayout


def diagnose(root: str | Path | None = None, config: str | Path | None = None) -> Diagnosis:
    """Look at the machine, the settings and the store; nothing is made and nothing is changed.

    Args:
        root: The state directory; as CONTRACT.md, "Store on disk", if None. It need not exist.
        config: A configuration file; the usual ones if None.

    Returns:
        What was found. What is wrong is in there, and not raised.
    """
    return Diagnosis(tuple(_findings(root, None if config is None else Path(config))))


def _findings(root: str | Path | None, config_file: Path | None) -> Iterator[Finding]:
    yield machine.kernel()
    yield machine.child_ender()
    yield machine.clock()
    try:
        config = load_config(config_file, os.environ, uid=invoking_uid())
    except MicropodError as error:
        yield problem("configuration", error)
        config = Config()
    else:
        yield settings.configuration(config_file)
    yield settings.registries_conf(config)
    yield from settings.credentials(config)
    yield settings.authorities(config)
    yield settings.proxies()
    yield from machine.tools(config.tools_dir)
    yield from _of_store(root, config)


def _of_store(root: str | Path | None, config: Config) -> Iterator[Finding]:
    try:
        path = store_root(root, os.environ, config, invoking_uid())
    except MicropodError as error:
        yield problem("store", error)
        return
    place = store_state.nearest_directory(path)
    store: Store | None = None
    try:
        store = Store(path)
        yield from store_state.findings(store)
    except MicropodError as error:
        if isinstance(error, ConflictError):
            store = None  # it is no store, and nothing is tried in somebody's directory
        yield problem("store", error, path=str(path))
    yield store_state.filesystem(path, place)
    yield store_state.space(place)
    namespaces = users.user_namespaces(None if store is None else store.layout)
    yield namespaces
    yield users.subordinate_id_ranges()
    if namespaces.state == "problem":
        return
    with _scratch(store, place) as scratch:
        yield from root_filesystems.findings(store, scratch)


@contextlib.contextmanager
def _scratch(store: Store | None, place: Path) -> Iterator[Path | None]:
    """Yield a directory on the store's filesystem, which is gone afterwards; None where none can be made."""
    if store is None or not os.access(place, os.W_OK | os.X_OK):
        yield None
    elif _is_whole(store.layout):
        with store.stage("doctor") as staging:
            yield staging.path
    else:
        # Beside of where the store will be: a store is not made by looking for it.
        directory = Path(tempfile.mkdtemp(prefix=".micropod-doctor-", dir=place))
        try:
            yield directory
        finally:
            remove_tree_if_possible(directory)


def _is_whole(layout: StoreLayout) -> bool:
    return layout.exists() and os.access(layout.staging, os.W_OK | os.X_OK)
