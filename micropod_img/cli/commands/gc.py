"""``gc``: remove blobs that no image needs."""

from __future__ import annotations

import typer

from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def gc(ctx: typer.Context) -> Result:
    """Remove blobs that no image needs."""
    from micropod_img.render.document import deletion_object  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.reports import collected_text  # noqa: PLC0415 - the same

    settings = ctx.ensure_object(Settings)
    removed = settings.service().collect_garbage()
    return Result(
        data=lambda: deletion_object(removed),
        text=lambda _style: collected_text(removed, verbose=settings.verbose),
        quiet=lambda: "\n".join(removed.removed),
    )
