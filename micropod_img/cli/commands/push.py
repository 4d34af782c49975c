"""``push``: send an image of the store to a registry."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.completion import stored_references
from micropod_img.cli.progress import MODES, progress_to_stderr
from micropod_img.cli.pull_options import Progress  # noqa: TC001 - typer reads the annotations
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
from micropod_img.cli.values import choice

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def push(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="An image that is here.", autocompletion=stored_references)],
    destination: Annotated[
        str | None, typer.Argument(metavar="DST", help="Where to; to where REF says, if left out.")
    ] = None,
    *,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="OS/ARCH[/VARIANT]", help="The image for this platform alone."),
    ] = None,
    all_platforms: Annotated[
        bool, typer.Option("--all-platforms", help="The whole index that the image came from.")
    ] = False,
    username: Username = None,
    password_stdin: PasswordStdin = False,
    token_stdin: TokenStdin = False,
    insecure: Insecure = False,
    ca_file: CaFile = None,
    registries_conf: RegistriesConf = None,
    timeout: Timeout = None,
    stall_timeout: StallTimeout = None,
    progress: Progress = "auto",
) -> Result:
    """Push an image, or a whole index, to a registry."""
    from micropod_img.errors import UsageError  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.document import push_object  # noqa: PLC0415 - the same
    from micropod_img.render.registries import pushed_text  # noqa: PLC0415 - the same

    if all_platforms and platform is not None:
        raise UsageError("all platforms and one platform were asked for", hint="leave out one of the two options")
    settings = ctx.ensure_object(Settings)
    options = host_options(
        insecure=insecure,
        timeout=timeout,
        stall_timeout=stall_timeout,
        ca_file=ca_file,
        registries_conf=registries_conf,
        auth=given_credential(username=username, password_stdin=password_stdin, token_stdin=token_stdin),
    )
    service = settings.service()
    with progress_to_stderr(choice(progress, "--progress", MODES), settings) as told:
        report = service.registries.push(
            ref,
            destination,
            platform=service.wanted_platform(platform),
            strict=platform is not None,
            all_platforms=all_platforms,
            options=options,
            progress=told,
        )
    return Result(
        data=lambda: push_object(report),
        text=lambda style: pushed_text(report, style),
        quiet=lambda: report.digest,
    )
