"""The options of commands that speak to registries, and what they mean."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from micropod_img.cli.values import duration
from micropod_img.errors import UsageError

if TYPE_CHECKING:
    from micropod_img.pull.hosts import HostOptions
    from micropod_img.pull.secret import Credential

Insecure: TypeAlias = Annotated[
    bool, typer.Option("--insecure", help="Allow plain HTTP, and HTTPS with any certificate.")
]
Timeout: TypeAlias = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="For each reference: 90, 90s, 5m, 1h30m.")
]
StallTimeout: TypeAlias = Annotated[
    str | None, typer.Option("--stall-timeout", metavar="TIME", help="Without an answer or a new byte.")
]
Username: TypeAlias = Annotated[
    str | None, typer.Option("--username", "-u", metavar="NAME", help="With --password-stdin.")
]
PasswordStdin: TypeAlias = Annotated[
    bool, typer.Option("--password-stdin", help="Read a password from standard input.")
]
TokenStdin: TypeAlias = Annotated[
    bool, typer.Option("--token-stdin", help="Read a token from standard input, instead of a name and a password.")
]
CaFile: TypeAlias = Annotated[
    str | None, typer.Option("--ca-file", metavar="FILE", help="PEM certificates to trust besides the system's.")
]
RegistriesConf: TypeAlias = Annotated[
    str | None, typer.Option("--registries-conf", metavar="FILE", help="Instead of Podman's registries.conf files.")
]


def existing_file(text: str | None, option: str) -> Path | None:
    """Return the file that an option names.

    Raises:
        UsageError: It is none.
    """
    if text is None:
        return None
    path = Path(text).absolute()
    if not path.is_file() and not path.is_fifo():
        raise UsageError(f"{option}: {text} is not a file")
    return path


def host_options(
    *,
    insecure: bool,
    timeout: str | None,
    stall_timeout: str | None,
    ca_file: str | None,
    registries_conf: str | None,
    auth: Credential | None = None,
) -> HostOptions:
    """Return how registries are reached, as the options say."""
    from micropod_img.pull.hosts import HostOptions  # noqa: PLC0415 - not for help and completion

    return HostOptions(
        insecure=insecure,
        timeout=duration(timeout, "--timeout"),
        stall_timeout=duration(stall_timeout, "--stall-timeout"),
        auth=auth,
        ca_file=existing_file(ca_file, "--ca-file"),
        registries_conf=existing_file(registries_conf, "--registries-conf"),
    )


def given_credential(*, username: str | None, password_stdin: bool, token_stdin: bool) -> Credential | None:
    """Return the credential that came with the call, its secret part read from standard input.

    A password is in no option: everybody on the host can read those (proc(5), ``cmdline``).

    Raises:
        UsageError: The options do not fit together, or standard input is empty.
    """
    if not (username is not None or password_stdin or token_stdin):
        return None
    if token_stdin and (password_stdin or username is not None):
        raise UsageError("--token-stdin goes without --username and --password-stdin")
    if not token_stdin and not (password_stdin and username is not None):
        raise UsageError("--username and --password-stdin go together")
    from micropod_img.pull.secret import Credential  # noqa: PLC0415 - not for help and completion

    secret = _from_stdin("--token-stdin" if token_stdin else "--password-stdin")
    if username is None:
        return Credential.from_registry_token(secret)
    return Credential.from_password(username, secret)


def asked_credential(*, username: str | None, password_stdin: bool, token_stdin: bool, registry: str) -> Credential:
    """Return the credential for a login: as the options say, and what they leave open is asked for on the terminal.

    Raises:
        UsageError: The options do not fit together, or there is no terminal to ask.
    """
    from micropod_img.pull.secret import Credential  # noqa: PLC0415 - not for help and completion

    if token_stdin:
        if password_stdin or username is not None:
            raise UsageError("--token-stdin goes without --username and --password-stdin")
        return Credential.from_identity_token(_from_stdin("--token-stdin"))
    if password_stdin:
        if username is None:
            raise UsageError("--password-stdin needs --username")
        return Credential.from_password(username, _from_stdin("--password-stdin"))
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the password", hint="use --username NAME --password-stdin")
    import getpass  # noqa: PLC0415 - only a person is asked

    name = username if username is not None else _asked_name(registry)
    try:
        # getpass asks the terminal itself, without echo, whatever stdin and stdout are.
        return Credential.from_password(name, getpass.getpass(f"Password of {name} at {registry}: "))
    except EOFError:
        sys.stderr.write("\n")
        raise UsageError("no password was given") from None  # the answer that never came tells nothing more


def _asked_name(registry: str) -> str:
    sys.stderr.write(f"User name at {registry}: ")
    sys.stderr.flush()
    name = sys.stdin.readline().strip()
    if not name:
        sys.stderr.write("\n")
        raise UsageError("no user name was given")
    return name


def _from_stdin(option: str) -> str:
    """Read all of standard input; one line end behind it is not part of the secret, as with docker and podman."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"{option}: standard input is a terminal", hint=f"pipe it in: … {option} < FILE")
    secret = os.fsdecode(sys.stdin.buffer.read())
    secret = secret.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise UsageError(f"{option}: standard input is empty")
    return secret
