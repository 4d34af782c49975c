"""``selftest``: prove that all of it works here."""

from __future__ import annotations

import typer

from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def selftest(ctx: typer.Context) -> Result:
    """Try it all with a registry and an image made on the spot."""
    from micropod_img.render.reports import steps_text  # noqa: PLC0415 - not for help and completion
    from micropod_img.selftest import selftest as run_selftest  # noqa: PLC0415 - the same

    report = run_selftest(ctx.ensure_object(Settings).config)
    return Result(
        data=lambda: {
            "steps": [
                {"name": step.name, "seconds": round(step.seconds, 4), "skipped": step.skipped} for step in report.steps
            ],
            "failed": report.failed,
        },
        text=lambda style: steps_text(
            [(step.name, step.seconds, step.skipped) for step in report.steps], report.failed, style
        ),
        quiet=lambda: "",
        errors=[] if report.error is None else [report.error],
    )
