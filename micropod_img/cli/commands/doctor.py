"""``doctor``: what on this machine is not as it should be, and what to do about it."""

from __future__ import annotations

import typer

from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(ctx: typer.Context) -> Result:
    """Say what is wrong on this machine, and what to do about it."""
    from micropod_img.doctor.examination import diagnose  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.diagnosis import (  # noqa: PLC0415 - the same
        diagnosis_object,
        diagnosis_text,
        problems_text,
    )

    settings = ctx.ensure_object(Settings)
    diagnosis = diagnose(settings.root, settings.config)
    errors = [one.error for one in diagnosis.problems if one.error is not None]
    return Result(
        data=lambda: diagnosis_object(diagnosis),
        text=lambda style: diagnosis_text(diagnosis, style),
        quiet=lambda: problems_text(diagnosis),
        errors=errors[:1],
    )
