"""Who a container's process is: ``User`` of an image's configuration, looked up in the image's own files.

OCI image-spec, config.md, "User": ``user``, ``uid``, ``user:group``, ``uid:gid``, ``uid:group``, ``user:gid``. A name
that the image does not know is an error and never root, and a line of its files that is not understood names nobody.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from micropod_img.errors import UnsafeError, UnsupportedError
from micropod_img.fsutil import disk_errors
from micropod_img.rootfs.quoting import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.rootfs.confined import ConfinedRoot

_ACCOUNT_FILE_LIMIT: Final = 4 << 20
_MAX_ID: Final = (1 << 31) - 1  # what Docker, podman and runc take; -1 means "leave as it is" to the kernel
_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_ROOT_HOME: Final = "/"


@dataclass(frozen=True, slots=True)
class ProcessUser:
    """User id, group id, all group ids (the process's own among them, ascending), and home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class AccountFiles:
    """What an image's ``/etc/passwd`` and ``/etc/group`` say; empty where there is none."""

    passwd: bytes = b""
    group: bytes = b""


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: frozenset[str]


def read_account_files(root: ConfinedRoot) -> AccountFiles:
    """Read ``/etc/passwd`` and ``/etc/group`` of a root filesystem.

    Raises:
        UnsafeError: One of them has more than 4 MiB.
        DiskError: One of them cannot be read.
    """
    return AccountFiles(_read(root, "etc/passwd"), _read(root, "etc/group"))


def resolve_user(user: str, files: AccountFiles) -> ProcessUser:
    """Find out what ``User`` of a configuration means.

    Args:
        user: As the image or a user wrote it; the empty string is root, as in the image-spec.
        files: The image's own account files.

    Returns:
        The user. With a group in ``user`` that is the only group; without one the account's own and those that list it
        as a member, as the image-spec says.

    Raises:
        UnsupportedError: A name is not in the image's files, or a number is no user or group id.
    """
    who, _, group = user.partition(":")
    account = _account(who, files, user)
    if group:
        gid = _group_id(group, files, user)
        return ProcessUser(account.uid, gid, (gid,), account.home)
    groups = {one.gid for one in _groups(files.group) if account.name and account.name in one.members}
    return ProcessUser(account.uid, account.gid, tuple(sorted({account.gid, *groups})), account.home)


def _account(who: str, files: AccountFiles, user: str) -> _Account:
    accounts = _accounts(files.passwd)
    if not who or _NUMBER.fullmatch(who):
        uid = _id(who or "0", "user", user)
        return next((one for one in accounts if one.uid == uid), _Account("", uid, 0, _ROOT_HOME))
    for one in accounts:
        if one.name == who:
            return one
    raise _unknown(f"{printable(who)!r} is not in the image's /etc/passwd", user)


def _group_id(group: str, files: AccountFiles, user: str) -> int:
    if _NUMBER.fullmatch(group):
        return _id(group, "group", user)
    for one in _groups(files.group):
        if one.name == group:
            return one.gid
    raise _unknown(f"{printable(group)!r} is not in the image's /etc/group", user)


def _id(text: str, kind: str, user: str) -> int:
    number = int(text)
    if number > _MAX_ID:
        raise _unknown(f"{text} is not a {kind} id", user)
    return number


def _unknown(what: str, user: str) -> UnsupportedError:
    return UnsupportedError(
        f"the image wants to run as {printable(user)!r}, and {what}",
        code="unknown-user",
        hint="ask its publisher; as root it was not meant to run",
    )


def _accounts(content: bytes) -> Iterator[_Account]:
    for name, _, uid_text, gid_text, _, home, *_ in _lines(content, 6):
        uid, gid = _stated_id(uid_text), _stated_id(gid_text)
        if name and uid is not None and gid is not None:
            yield _Account(name, uid, gid, home if home.startswith("/") and home.isprintable() else _ROOT_HOME)


def _groups(content: bytes) -> Iterator[_Group]:
    for name, _, gid_text, members, *_ in _lines(content, 4):
        gid = _stated_id(gid_text)
        if name and gid is not None:
            yield _Group(name, gid, frozenset(members.split(",")) - {""})


def _lines(content: bytes, fields: int) -> Iterator[list[str]]:
    for line in content.split(b"\n"):
        values = line.strip().decode("utf-8", "surrogateescape").split(":")
        if len(values) >= fields and not line.startswith(b"#"):
            yield values


def _stated_id(text: str) -> int | None:
    """Read an id of a line; one without a number there (a torn line, NIS) must not pass for 0."""
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= _MAX_ID else None


def _read(root: ConfinedRoot, path: str) -> bytes:
    with disk_errors(path):
        try:
            return root.read_file(path, limit=_ACCOUNT_FILE_LIMIT) or b""
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise UnsafeError(
                    f"the image's /{path} has more than {_ACCOUNT_FILE_LIMIT >> 20} MiB",
                    code="account-file-too-large",
                    hint="no real image needs that; do not use it",
                ) from error
            raise
