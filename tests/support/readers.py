"""Everything that reads what somebody else wrote, under one rule: it gives a value, or one of the errors that fit."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from micropod_img import oci
from micropod_img.config import load_config
from micropod_img.digest import Digest, parse_digest, sha256_of
from micropod_img.errors import MicropodError
from micropod_img.limits import Limits
from micropod_img.platforms import Platform
from micropod_img.pull.auth_files import read_auth_file
from micropod_img.pull.crane_errors import Request, translate
from micropod_img.pull.registries_conf import load_registries
from micropod_img.reference import Reference
from micropod_img.render.errors import error_text
from micropod_img.render.style import Style
from micropod_img.rootfs.gate import check_layer
from micropod_img.rootfs.pod_record import parse_pod_record
from micropod_img.rootfs.pods import checked_id
from micropod_img.rootfs.process_config import parse_runnable_config
from micropod_img.rootfs.users import AccountFiles, resolve_user
from micropod_img.run import Completed
from micropod_img.store import documents
from micropod_img.store.index import parse_index, serialize
from micropod_img.store.layout import StoreLayout
from tests.rootfs.tar_layers import GZIP_LAYER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MIB = 1 << 20
SMALL = Limits(max_size=8 * MIB, max_entries=10_000, metadata_size=4 * MIB, ratio_floor=MIB)
"""Limits for layers of some kilobytes."""

_LAYOUT = StoreLayout(Path("/store"))
_REQUEST = Request(ref="registry.example.com/app:1", endpoint="registry.example.com", stage="fetch")


@dataclass(frozen=True)
class Reader:
    """What takes bytes from outside.

    Attributes:
        read: Reads them.
        statuses: The exit statuses of the errors that it may raise.
    """

    read: Callable[[bytes], object]
    statuses: frozenset[int]

    def verdict(self, content: bytes) -> str:
        """Read some bytes; return ``taken``, or the code of the error.

        Raises:
            AssertionError: It is an error of the wrong kind, or one that cannot be shown on a terminal.
        """
        try:
            self.read(content)
        except MicropodError as error:
            assert error.exit_status in self.statuses, f"{error.exit_status}: {error.message}"  # noqa: PT017
            shown = error_text(error, Style(colour=False), verbose=True)
            assert all(line.isprintable() or "\t" in line for line in shown.split("\n")), shown
            return error.code
        return "taken"


def _layer(content: bytes) -> None:
    check_layer(
        io.BytesIO(content), digest=sha256_of(content), media_type=GZIP_LAYER, diff_id=sha256_of(content), limits=SMALL
    )


def _document(content: bytes) -> None:
    document = oci.parse_document(content, name="example.com/app:1")
    descriptors = document.manifests if isinstance(document, oci.Index) else (document.config, *document.layers)
    for descriptor in descriptors:
        _stays_inside(descriptor.digest)
    # What a pull publishes, every later command reads back.
    stored = documents.read_document(content, "sha256:0")
    listed = stored.manifests if isinstance(stored, documents.StoredIndex) else (stored.config, *stored.layers)
    assert [one.digest for one in listed] == [one.digest for one in descriptors]
    assert [one.size for one in listed] == [one.size for one in descriptors]


def _config(content: bytes) -> None:
    config = oci.parse_config(content, name="example.com/app:1")
    assert documents.read_config(content, "sha256:0").diff_ids == config.rootfs.diff_ids


def _index(content: bytes) -> None:
    index = parse_index(content, name="index.json")
    for entry in index.entries:
        _stays_inside(entry.digest)
    again = parse_index(serialize(index), name="index.json")
    assert [entry.digest for entry in again.entries] == [entry.digest for entry in index.entries]


def _pod_record(content: bytes) -> None:
    record = parse_pod_record(content, name="pod.json")
    for chain in record.chain_ids:
        _stays_inside(chain)


def _reference(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
    assert str(reference).isascii()
    assert str(reference).isprintable()
    assert not any(part in ("", ".", "..") for part in reference.path.split("/"))


def _pod_id(content: bytes) -> None:
    pod = _LAYOUT.pod(checked_id(content.decode("utf-8", "surrogateescape")))
    assert pod.parent == _LAYOUT.pods
    assert pod.name not in ("", ".", "..")


def _platform(content: bytes) -> None:
    platform = Platform.parse(content.decode("utf-8", "surrogateescape"))
    assert Platform.parse(str(platform)) == platform


def _digest(content: bytes) -> None:
    _stays_inside(parse_digest(content.decode("utf-8", "surrogateescape")))


def _stays_inside(digest: Digest) -> None:
    for path, parent in (
        (_LAYOUT.blob(digest), _LAYOUT.blobs),
        (_LAYOUT.snapshot(digest), _LAYOUT.snapshots),
        (_LAYOUT.blob_lock(digest), _LAYOUT.locks),
        (_LAYOUT.snapshot_lock(digest), _LAYOUT.locks),
    ):
        assert path.parent == parent
        assert path.name.isascii()
        assert path.name.isprintable()
        assert path.name.strip(".")


def _users(content: bytes) -> None:
    user, _, file = content.partition(b"\n")
    resolve_user(user.decode("utf-8", "replace"), AccountFiles(file, file))


def _crane_log(content: bytes) -> None:
    raise translate(Completed(1, b"", content.decode("utf-8", "replace")), _REQUEST)


def _of_file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def reading(content: bytes) -> object:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(content)
            return read(Path(file.name))

    return reading


READERS: Mapping[str, Reader] = {
    "layer": Reader(_layer, frozenset({7, 12})),
    "document": Reader(_document, frozenset({7, 8, 12})),
    "config": Reader(_config, frozenset({7, 12})),
    "process config": Reader(lambda content: parse_runnable_config(content, name="app"), frozenset({7})),
    "stored document": Reader(lambda content: documents.read_document(content, "sha256:0"), frozenset({7})),
    "stored config": Reader(lambda content: documents.read_config(content, "sha256:0"), frozenset({7})),
    "index.json": Reader(_index, frozenset({7})),
    "pod.json": Reader(_pod_record, frozenset({7})),
    "reference": Reader(_reference, frozenset({2})),
    "pod id": Reader(_pod_id, frozenset({2})),
    "platform": Reader(_platform, frozenset({2})),
    "digest": Reader(_digest, frozenset({2})),
    "users": Reader(_users, frozenset({8})),
    "crane's log": Reader(_crane_log, frozenset(range(3, 12))),
    "config file": Reader(_of_file(lambda path: load_config(path, {"HOME": "/"}, uid=1)), frozenset({2})),
    "registries.conf": Reader(_of_file(lambda path: load_registries(path, {}, system_directory=path)), frozenset({2})),
    "auth file": Reader(_of_file(read_auth_file), frozenset({4})),
}
