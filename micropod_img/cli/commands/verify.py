"""``verify``: whether the store is as it should be."""

from __future__ import annotations

import typer

from micropod_img.cli.progress import MODES, progress_to_stderr
from micropod_img.cli.pull_options import Progress  # noqa: TC001 - typer reads the annotations
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings
from micropod_img.cli.values import choice

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def verify(ctx: typer.Context, *, progress: Progress = "auto") -> Result:
    """Read every blob, and check images, snapshots and pods."""
    from micropod_img.render.verification import (  # noqa: PLC0415 - not for help and completion
        failure,
        problem_codes,
        verification_object,
        verification_text,
    )

    settings = ctx.ensure_object(Settings)
    with progress_to_stderr(choice(progress, "--progress", MODES), settings) as told:
        found = settings.service(damaged=True).verify(progress=told)
    return Result(
        data=lambda: verification_object(found),
        text=lambda style: verification_text(found, style),
        quiet=lambda: problem_codes(found),
        errors=[failure(found)] if found.problems else [],
    )
