"""All that is looked at, in an order in which it can be put right."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img import fsutil
from micropod_img.config import Config, load_config, store_root
from micropod_img.diagnosis import Diagnosis, Finding, problem
from micropod_img.doctor import machine, root_filesystems, settings, store_state, users
from micropod_img.errors import ConflictError, MicropodError
from micropod_img.invoker import invoking_uid
from micropod_img.store.store import Store
from micropod_img.store.trees import remove_tree_if_possible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from micropod_img.store.layout import StoreLayout


def diagnose(root: str | Path | None = None, config: str | Path | None = None) -> Diagnosis:
    """Look at the machine, the settings and the store; nothing is made and nothing is changed.

    Args:
        root: The state directory; as CONTRACT.md, "Store on disk", if None. It need not exist.
        config: A configuration file; the usual ones if None.

    Returns:
        What was found. What is wrong is in there, and not raised.
    """
    examination = _Examination(root, None if config is None else Path(config))
    return Diagnosis(tuple(examination.findings()))


class _Examination:
    """Looks at one thing after the other, and goes on where one is broken."""

    def __init__(self, root: str | Path | None, config_file: Path | None) -> None:
        self._root = root
        self._config_file = config_file
        self._config = Config()
        self._store: Store | None = None
        self._may_mount = False

    def findings(self) -> Iterator[Finding]:
        """Yield what is found."""
        yield machine.kernel()
        yield machine.child_ender()
        yield machine.clock()
        yield from _looked_at("configuration", self._configuration)
        yield from _looked_at("registries.conf", lambda: settings.registries_conf(self._config))
        yield from _looked_at("credentials", lambda: settings.credentials(self._config))
        yield from _looked_at("authorities", lambda: settings.authorities(self._config))
        yield settings.proxies()
        yield from machine.tools(self._config.tools_dir)
        yield from _looked_at("store", self._of_store)

    def _configuration(self) -> Finding:
        self._config = load_config(self._config_file, os.environ, uid=invoking_uid())
        return settings.configuration(self._config_file)

    def _of_store(self) -> Iterator[Finding]:
        path = store_root(self._root, os.environ, self._config, invoking_uid())
        yield from _looked_at("store", lambda: self._opened(path))
        place = store_state.nearest_directory(path)
        yield from _looked_at("filesystem", lambda: store_state.filesystem(path, place))
        yield from _looked_at("space", lambda: store_state.space(place))
        yield from _looked_at("user-namespaces", self._of_users)
        if self._may_mount:
            with _scratch(self._store, place) as scratch:
                yield from _looked_at("driver", lambda: root_filesystems.findings(self._store, scratch))

    def _opened(self, path: Path) -> Iterator[Finding]:
        self._store = Store(path)
        try:
            yield from store_state.findings(self._store)
        except ConflictError:
            self._store = None  # it is no store, and nothing is tried in somebody's directory
            raise

    def _of_users(self) -> Iterator[Finding]:
        namespaces = users.user_namespaces(None if self._store is None else self._store.layout)
        self._may_mount = namespaces.state != "problem"
        yield namespaces
        yield users.subordinate_id_ranges()


def _looked_at(subject: str, look: Callable[[], Finding | Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what is found; that something cannot be looked at is a finding too."""
    try:
        found = look()
        yield from (found,) if isinstance(found, Finding) else found
    except MicropodError as error:
        yield problem(subject, error)
    except OSError as error:
        yield problem(subject, fsutil.disk_error(error, error.filename or subject))


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
    return layout.version.exists() and os.access(layout.staging, os.W_OK | os.X_OK)
