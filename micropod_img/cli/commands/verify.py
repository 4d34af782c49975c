"""``verify``: whether the store is as it should be; ``--repair`` puts it right."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.progress import MODES, progress_to_stderr
from micropod_img.cli.pull_options import Progress  # noqa: TC001 - typer reads the annotations
from micropod_img.cli.registry_options import (
    CaFile,
    Insecure,
    RegistriesConf,
    StallTimeout,
    Timeout,
    existing_file,
)
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings
from micropod_img.cli.values import choice, duration

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def verify(
    ctx: typer.Context,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what is wrong; only what is bad is fetched again.")
    ] = False,
    insecure: Insecure = False,
    ca_file: CaFile = None,
    registries_conf: RegistriesConf = None,
    timeout: Timeout = None,
    stall_timeout: StallTimeout = None,
    progress: Progress = "auto",
) -> Result:
    """Read every blob, and check images, snapshots and pods."""
    from micropod_img.pull.options import PullOptions  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.verification import (  # noqa: PLC0415 - the same
        failure,
        verification_object,
        verification_quiet,
        verification_text,
    )

    settings = ctx.ensure_object(Settings)
    options = PullOptions(
        insecure=insecure,
        timeout=duration(timeout, "--timeout"),
        stall_timeout=duration(stall_timeout, "--stall-timeout"),
        ca_file=existing_file(ca_file, "--ca-file"),
        registries_conf=existing_file(registries_conf, "--registries-conf"),
    )
    with progress_to_stderr(choice(progress, "--progress", MODES), settings) as told:
        service = settings.service(damaged=True)
        found = service.repair(options, progress=told) if repair else service.verify(progress=told)
    return Result(
        data=lambda: verification_object(found),
        text=lambda style: verification_text(found, style),
        quiet=lambda: verification_quiet(found),
        errors=[failure(found, repaired=repair)] if found.problems else [],
    )
