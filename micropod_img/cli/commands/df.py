"""``df``: who uses the disk."""

from __future__ import annotations

import typer

from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def df(ctx: typer.Context) -> Result:
    """Show the disk space that images take, own and shared."""
    from micropod_img.render.document import usage_object  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.reports import usage_text  # noqa: PLC0415 - the same

    usage = ctx.ensure_object(Settings).service().disk_usage()
    return Result(
        data=lambda: usage_object(usage),
        text=lambda style: usage_text(usage, style),
        quiet=lambda: str(usage.image_bytes + usage.unreferenced_bytes + usage.staging_bytes),
    )
