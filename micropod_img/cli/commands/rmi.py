"""``rmi``: remove images."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.completion import stored_references
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def rmi(
    ctx: typer.Context,
    refs: Annotated[
        list[str],
        typer.Argument(metavar="REF", help="References, or beginnings of digests.", autocompletion=stored_references),
    ],
    *,
    force: Annotated[
        bool,
        typer.Option("--force", "-f", help="Pass over what is not here; remove a digest with all of its references."),
    ] = False,
) -> Result:
    """Remove images, and free what no other image needs."""
    from micropod_img.render.document import deletion_object  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.reports import removed_text  # noqa: PLC0415 - the same

    removed = ctx.ensure_object(Settings).service().delete_images(refs, force=force)
    return Result(
        data=lambda: deletion_object(removed),
        text=lambda _style: removed_text(removed),
        quiet=lambda: "\n".join(removed.removed),
    )
