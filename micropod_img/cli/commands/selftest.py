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
    steps = [(step.name, step.seconds) for step in report.steps]
    return Result(
        data=lambda: {
            "steps": [{"name": name, "seconds": round(seconds, 4)} for name, seconds in steps],
            "failed": report.failed,
        },
        text=lambda style: steps_text(steps, report.failed, style),
        quiet=lambda: "",
        errors=[] if report.error is None else [report.error],
    )
