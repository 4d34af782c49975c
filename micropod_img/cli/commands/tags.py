"""``tags``: list the tags of a repository."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.progress import progress_to_stderr
from micropod_img.cli.registry_options import (
    CaFile,
    Insecure,
    PasswordStdin,
    RegistriesConf,
    StallTimeout,
    Timeout,
    TokenStdin,
    Username,
    given_credential,
    host_options,
)
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def tags(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="A repository, such as alpine.")],
    *,
    username: Username = None,
    password_stdin: PasswordStdin = False,
    token_stdin: TokenStdin = False,
    insecure: Insecure = False,
    ca_file: CaFile = None,
    registries_conf: RegistriesConf = None,
    timeout: Timeout = None,
    stall_timeout: StallTimeout = None,
) -> Result:
    """List the tags of a repository, sorted as versions."""
    from micropod_img.render.text import one_line  # noqa: PLC0415 - not for help and completion

    settings = ctx.ensure_object(Settings)
    options = host_options(
        insecure=insecure,
        timeout=timeout,
        stall_timeout=stall_timeout,
        ca_file=ca_file,
        registries_conf=registries_conf,
        auth=given_credential(username=username, password_stdin=password_stdin, token_stdin=token_stdin),
    )
    with progress_to_stderr("plain" if settings.verbose else "none", settings) as told:
        registries = settings.service().registries
        name = registries.repository(repository, options=options).name
        found = registries.tags(name, options=options, progress=told)
    listed = "\n".join(map(one_line, found))
    return Result(
        data=lambda: {"repository": name, "tags": list(found)},
        text=lambda _style: listed,
        quiet=lambda: listed,
    )
