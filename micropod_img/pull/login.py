"""Log in to registries and out: check a credential, and keep it where every tool of the field finds it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from micropod_img.errors import MicropodError, NotFoundError, UsageError
from micropod_img.pull.auth_files import (
    AuthFile,
    edit_auth_file,
    keys_for,
    printable,
    read_auth_file,
    server_name,
    without_secrets,
)
from micropod_img.pull.credentials import docker_config_file, find_credential, helper_for
from micropod_img.pull.login_check import LoginCheck, LoginTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from micropod_img.locks import WaitObserver
    from micropod_img.pull.credentials import FoundCredential
    from micropod_img.pull.secret import Credential

_STAGE = "login"

CredentialCheck: TypeAlias = Callable[[LoginTarget, "Credential"], LoginCheck]
"""Raises when a registry refuses a credential."""


@dataclass(frozen=True, slots=True)
class LoginReport:
    """A login that was stored.

    Attributes:
        target: What for.
        stored_in: The file, and the helper if it was one, in words for people.
        check: What the registry said.
        shadowed_by: The source of another credential that is found before this one; None when this one is found.
    """

    target: LoginTarget
    stored_in: str
    check: LoginCheck
    shadowed_by: str | None


@dataclass(frozen=True, slots=True)
class LogoutReport:
    """A logout.

    Attributes:
        target: What from.
        removed_from: Where the credential was, in words for people.
        remaining: The source of a credential that is still found, as another tool's login left it.
    """

    target: LoginTarget
    removed_from: tuple[str, ...]
    remaining: str | None


def login(
    registry: str,
    credential: Credential,
    *,
    environment: Mapping[str, str],
    check: CredentialCheck,
    auth_file: Path | None = None,
    on_wait: WaitObserver | None = None,
) -> LoginReport:
    """Check a credential against a registry, and store it.

    It goes into the file of `login_file`, or to the credential helper that this names for the registry, as from Docker.
    Other entries and what is not known here stay as they are.

    Args:
        registry: As `LoginTarget.parse` takes it.
        credential: What to store.
        environment: The user's environment; helpers run in it.
        check: Asks the registry (`check_login`), and raises when it refuses; only then is anything stored.
        auth_file: A file that takes the place of ``MICROPOD_AUTH_FILE``.
        on_wait: Is told of a wait for another process that logs in or out.

    Raises:
        UsageError: The registry's name is none.
        AuthError: The registry refused, the file is broken, or the helper failed.
        DiskError: The file cannot be written.
    """
    target = LoginTarget.parse(registry)
    path = login_file(environment, auth_file)
    file = read_auth_file(path) or AuthFile(path, {}, {}, None)
    outcome = check(target, credential)
    helper = helper_for(file, target.host, target.namespace, environment)
    if helper is not None:
        helper.store(credential)
    edit_auth_file(path, lambda auths: _put(auths, target, path, None if helper else credential), on_wait=on_wait)
    stored_in = helper.named_in if helper else str(path)
    found = _found(target, environment, auth_file)
    shadow = found.source if found is not None and found.credential != credential else None
    return LoginReport(target, stored_in, outcome, shadow)


def logout(
    registry: str,
    *,
    environment: Mapping[str, str],
    auth_file: Path | None = None,
    on_wait: WaitObserver | None = None,
) -> LogoutReport:
    """Remove a registry's credential from where `login` stores it; files of other tools are left alone.

    Args:
        registry: As `LoginTarget.parse` takes it. A namespace's credentials are its own.
        environment: The user's environment; helpers run in it.
        auth_file: A file that takes the place of ``MICROPOD_AUTH_FILE``.
        on_wait: Is told of a wait for another process that logs in or out.

    Raises:
        UsageError: The registry's name is none.
        NotFoundError: There is no login to it.
        AuthError: The file is broken, or the helper failed.
        DiskError: The file cannot be written.
    """
    target = LoginTarget.parse(registry)
    path = login_file(environment, auth_file)
    file = read_auth_file(path)
    removed: list[str] = []
    if file is not None:
        helper = helper_for(file, target.host, target.namespace, environment)
        if helper is not None and helper.erase():
            removed.append(helper.named_in)
        if keys_for(file.auths, target.host, target.namespace):
            edit_auth_file(path, lambda auths: _remove(auths, target, path, removed), on_wait=on_wait)
    remaining = _found(target, environment, auth_file)
    if not removed:
        raise NotFoundError(
            f"there is no login to {target} in {path}",
            code="not-logged-in",
            hint=_nearest_login(target, file, remaining),
            stage="logout",
        )
    return LogoutReport(target, tuple(dict.fromkeys(removed)), remaining.source if remaining else None)


def login_file(environment: Mapping[str, str], auth_file: Path | None = None) -> Path:
    """Return the file that a login is stored in: the first that is read, of those that are the user's to write.

    ``MICROPOD_AUTH_FILE``, else ``REGISTRY_AUTH_FILE``, else Podman's file when there is an ``XDG_RUNTIME_DIR`` (it is
    gone with the session, as after ``podman login``), else Docker's.

    Args:
        environment: The user's environment.
        auth_file: A file that takes the place of ``MICROPOD_AUTH_FILE``.

    Raises:
        UsageError: The directory that ``XDG_RUNTIME_DIR`` names does not exist; Podman refuses that too.
    """
    named = auth_file or environment.get("MICROPOD_AUTH_FILE") or environment.get("REGISTRY_AUTH_FILE")
    if named:
        return Path(named)
    runtime = environment.get("XDG_RUNTIME_DIR")
    if not runtime:
        return docker_config_file(environment)
    if not Path(runtime).is_dir():
        raise UsageError(
            f"{runtime}: the directory that XDG_RUNTIME_DIR names does not exist",
            code="runtime-directory-missing",
            hint="make it, or unset XDG_RUNTIME_DIR",
            stage=_STAGE,
        )
    return Path(runtime, "containers/auth.json")


def _put(auths: dict[str, object], target: LoginTarget, path: Path, credential: Credential | None) -> None:
    """Set the entry of a registry under one key; without a credential it is the empty one that Docker leaves."""
    keys = keys_for(auths, target.host, target.namespace)
    key = keys[0] if keys else _new_key(target, path)
    kept = without_secrets(auths.get(key))
    for other in keys[1:]:
        del auths[other]
    auths[key] = {**kept, **(credential.entry() if credential else {})}


def _new_key(target: LoginTarget, path: Path) -> str:
    # Docker and crane know Docker Hub by a URL only; Podman writes, and logs out from, the plain name.
    return str(target) if target.namespace or path.name != "config.json" else server_name(target.host)


def _remove(auths: dict[str, object], target: LoginTarget, path: Path, removed: list[str]) -> None:
    for key in keys_for(auths, target.host, target.namespace):
        entry = auths.pop(key)
        if entry is not None and without_secrets(entry) != entry:
            removed.append(str(path))


def _nearest_login(target: LoginTarget, file: AuthFile | None, remaining: FoundCredential | None) -> str | None:
    if remaining is not None:
        return f"another tool keeps one in {remaining.source}: log out with that tool"
    parts = sorted(key for key in (file.auths if file is not None else ()) if key.startswith(f"{target.host}/"))
    return f"there is one for {printable(parts[0])}" if parts else None


def _found(target: LoginTarget, environment: Mapping[str, str], auth_file: Path | None) -> FoundCredential | None:
    # What was asked for is done; what is wrong with another file will be said by the pull that needs it.
    with contextlib.suppress(MicropodError):
        return find_credential(target.host, target.namespace, environment=environment, auth_file=auth_file)
    return None
