"""Auth files: the JSON of ``config.json`` (Docker) and ``auth.json`` (containers-auth.json(5)), read and edited.

Keys name a registry or, as Podman has them, a namespace or repository in one. Docker Hub has several names, and old
keys are URLs; all that mean the same registry are treated alike. What is not known here is kept when a file is edited.

The content of such a file is secret. No frame from which an error is raised has it as a local variable, and errors are
not chained to those of the JSON parser, which hold the whole document.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from micropod_img import fsutil
from micropod_img.errors import AuthError, DiskError
from micropod_img.locks import Patience, locked, signed
from micropod_img.pull.secret import Credential, Secret, is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from micropod_img.locks import WaitObserver

DOCKER_HUB = "docker.io"
DOCKER_HUB_KEY = "https://index.docker.io/v1/"
"""The one key under which Docker and crane look for Docker Hub's credential."""

_DOCKER_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
_SIZE_LIMIT = 4 << 20
_SECRET_FIELDS = ("auth", "identitytoken", "registrytoken", "username", "password")


@dataclass(frozen=True, slots=True)
class AuthFile:
    """An auth file as it was read.

    Attributes:
        path: Where it is.
        auths: Its entries by key, as they stand there; secret.
        helpers: Credential helpers by key (``credHelpers``).
        default_helper: The credential helper for every registry that has none of its own (``credsStore``).
    """

    path: Path
    auths: Mapping[str, object] = field(repr=False)
    helpers: Mapping[str, str]
    default_helper: str | None

    def credential(self, key: str) -> Credential | None:
        """Return the credential of one entry.

        Returns:
            The credential; None for an entry without one, as Docker leaves them beside a credential helper.

        Raises:
            AuthError: The entry is broken.
        """
        found = _credential_of(self.auths[key])
        if isinstance(found, str):
            raise _invalid(self.path, f"the entry of {printable(key)} {found}")
        return found


def canonical_host(host: str) -> str:
    """Return the one name of a registry that may have several: ``docker.io`` for each of Docker Hub's."""
    return DOCKER_HUB if host in _DOCKER_HUB_NAMES else host


def server_name(host: str) -> str:
    """Return the name under which Docker and crane keep a registry's credential, in files and in helpers."""
    return DOCKER_HUB_KEY if canonical_host(host) == DOCKER_HUB else host


def registry_of_key(key: str) -> str | None:
    """Return the registry that a key stands for, as `canonical_host`; None when it names a namespace in one.

    Keys of old are URLs, of which Docker and Podman take the host, or end in the API's version.
    """
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            return canonical_host(key.removeprefix(scheme).partition("/")[0])
    for suffix in ("/v1/", "/v2/", "/"):
        if key.endswith(suffix):
            key = key.removesuffix(suffix)
            break
    return None if "/" in key else canonical_host(key)


def keys_for(keys: Iterable[str], host: str, namespace: str = "") -> list[str]:
    """Return the keys that name a registry, or one namespace in it, the best match first.

    Args:
        keys: Keys of ``auths`` or ``credHelpers``.
        host: The registry, ``host[:port]``.
        namespace: A repository or the beginning of one; empty for the registry itself.
    """
    there = list(keys)
    names = [host, *(name for name in _DOCKER_HUB_NAMES if name != host)] if host in _DOCKER_HUB_NAMES else [host]
    if namespace:
        return [key for name in names if (key := f"{name}/{namespace}") in there]
    exact = [key for key in (host, server_name(host), *names) if key in there]
    others = [key for key in there if registry_of_key(key) == canonical_host(host)]
    return list(dict.fromkeys((*exact, *others)))


def printable(key: str) -> str:
    """Return a key from a file as it can be shown on one line of a terminal."""
    return key if key.isprintable() else ascii(key)


def read_auth_file(path: Path, *, required: bool = False) -> AuthFile | None:
    """Read an auth file.

    Args:
        path: Where it is.
        required: Whether it is an error that there is none. An empty file is one without entries, as for Docker.

    Returns:
        The file; None when there is none.

    Raises:
        AuthError: It cannot be read, is missing and required, or is broken; the message names it.
    """
    document = _load(path)
    if document is None:
        if required:
            raise AuthError(
                f"{path}: there is no such auth file",
                code="auth-file-missing",
                hint="it was named explicitly; correct the path, or log in to write it",
                stage="credentials",
            )
        return None
    helpers: dict[str, str] = {}
    for key, name in _section(path, document, "credHelpers").items():
        if not isinstance(name, str):
            raise _invalid(path, f"the helper of {printable(key)} in credHelpers is not a name")
        helpers[key] = name
    default_helper = document.content.get("credsStore")
    if default_helper is not None and not isinstance(default_helper, str):
        raise _invalid(path, "credsStore is not a name")
    return AuthFile(path, _section(path, document, "auths"), helpers, default_helper or None)


def edit_auth_file(
    path: Path, edit: Callable[[dict[str, object]], None], *, on_wait: WaitObserver | None = None
) -> None:
    """Change the entries of an auth file, one process at a time, so that a reader finds the old file or the new.

    The file is made if need be, has mode 0600 afterwards, and stays where a symbolic link points and whose it was.

    Args:
        path: The file.
        edit: Changes the entries (``auths``) in place.
        on_wait: Is told of a wait for another process that changes them.

    Raises:
        AuthError: The file is there, and cannot be read or is broken.
        DiskError: It cannot be written.
    """
    failure = _edit(Path(os.path.realpath(path)), edit, on_wait)
    if isinstance(failure, str):
        raise _invalid(path, failure)
    if failure is not None:
        code = "disk-full" if failure.errno in {errno.ENOSPC, errno.EDQUOT} else "auth-file-write"
        raise DiskError(
            f"{path}: credentials cannot be written there: {failure.strerror or failure}",
            code=code,
            hint="name another file with MICROPOD_AUTH_FILE",
            stage="credentials",
            detail=str(failure),
        )


def without_secrets(entry: object) -> dict[str, object]:
    """Return what an entry holds besides its credential, to be kept when that changes."""
    return {key: value for key, value in entry.items() if key not in _SECRET_FIELDS} if isinstance(entry, dict) else {}


def _edit(path: Path, edit: Callable[[dict[str, object]], None], on_wait: WaitObserver | None) -> OSError | str | None:
    """Edit the file; what goes wrong is returned, as these frames hold what is secret."""
    try:
        fsutil.make_directory(path.parent)
        with locked(path.with_name(f".{path.name}.lock"), Patience(str(path), on_wait), owner=signed("login")):
            return _edit_locked(path, edit)
    except OSError as error:
        return error


def _edit_locked(path: Path, edit: Callable[[dict[str, object]], None]) -> OSError | str | None:
    document = _load(path) or _Document({})
    auths = dict(_section(path, document, "auths"))
    edit(auths)
    # An assignment keeps the place that the key has in the file.
    document.content["auths"] = auths
    try:
        text = json.dumps(document.content, indent="\t") + "\n"
    except RecursionError:
        return "it is nested too deeply"
    staging = path.with_name(f".{path.name}.new")
    try:
        staging.unlink(missing_ok=True)  # of a login that was killed; its lock is ours now
        fsutil.write_durably(staging, text.encode("ascii"), mode=0o600)
        _give_to_owner(staging, path)
        staging.rename(path)
        fsutil.fsync_directory(path.parent)
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)
    return None


def _give_to_owner(staging: Path, path: Path) -> None:
    # As Docker does: root that logs in for a user must not take that user's file away.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        was = path.stat()
        os.chown(staging, was.st_uid, was.st_gid)


@dataclass(frozen=True, slots=True)
class _Document:
    """The whole content of an auth file, kept from showing itself."""

    content: dict[str, object] = field(repr=False)


def _load(path: Path) -> _Document | None:
    """Return the whole document of a file; None when there is no file."""
    document = _document(path)
    if isinstance(document, OSError):
        raise AuthError(
            f"{path}: the auth file cannot be read: {document.strerror or document}",
            code="auth-file-unreadable",
            hint="correct its permissions, or name another file with MICROPOD_AUTH_FILE",
            stage="credentials",
            detail=str(document),
        )
    if isinstance(document, str):
        raise _invalid(path, document)
    return document


def _document(path: Path) -> _Document | OSError | str | None:
    """Return the document of a file, None without a file, or what is wrong with it."""
    try:
        with path.open("rb") as stream:
            return _parsed(stream.read(_SIZE_LIMIT + 1))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error


def _parsed(content: bytes) -> _Document | str:
    if len(content) > _SIZE_LIMIT:
        return f"it is larger than {_SIZE_LIMIT >> 20} MiB"
    try:
        text = content.decode("utf-8-sig")
        document: object = (
            json.loads(text, parse_constant=_finite, parse_float=_finite) if text.strip(" \t\r\n") else {}
        )
    except UnicodeDecodeError:
        return "it is not UTF-8"
    except json.JSONDecodeError as error:
        return f"it is not valid JSON: {error.msg}, line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        return "it is not valid JSON"
    return _Document(document) if isinstance(document, dict) else "it is not a JSON object"


def _finite(number: str) -> float:
    # Python would read NaN and Infinity, which are not JSON, and write what is too large for it as one of them.
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value


def _section(path: Path, document: _Document, name: str) -> dict[str, object]:
    if not isinstance(document.content.get(name), dict | None):
        raise _invalid(path, f"{name} is not a JSON object")
    return cast("dict[str, object]", document.content.get(name) or {})


def _invalid(path: Path, what: str) -> AuthError:
    return AuthError(
        f"{path}: the auth file is broken: {what}",
        code="auth-file-invalid",
        hint="correct it, or move it away and log in again",
        stage="credentials",
    )


def _credential_of(entry: object) -> Credential | str | None:
    """Return the credential of an entry, None when it has none, or what is wrong with it."""
    if entry is None:
        return None
    if not isinstance(entry, dict):
        return "is not a JSON object"
    fields: dict[str, str] = {}
    for name in _SECRET_FIELDS:
        value = entry.get(name) or ""
        if value and not is_text(value):
            return f"has something other than text as {name}"
        fields[name] = value
    username, password = fields["username"], fields["password"]
    if fields["auth"]:
        decoded = _decoded(fields["auth"])
        if decoded is None:
            return "has an auth that is not the base64 form of a user name, a colon and a password"
        username, password = decoded
    password = password if username else ""
    if not (password or fields["identitytoken"] or fields["registrytoken"]):
        return None
    return Credential(
        username=username if password else None,
        password=Secret(password) if password else None,
        identity_token=Secret(fields["identitytoken"]) if fields["identitytoken"] else None,
        registry_token=Secret(fields["registrytoken"]) if fields["registrytoken"] else None,
    )


def _decoded(auth: str) -> tuple[str, str] | None:
    compact = "".join(auth.split()).rstrip("=")
    try:
        plain = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    username, colon, password = plain.decode("utf-8", "surrogateescape").partition(":")
    # Docker drops the NULs that its own old versions wrote.
    return (username, password.strip("\0")) if colon and username else None
