"""``inspect``: all about one image."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.completion import stored_references
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def inspect(
    ctx: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="A reference, or the beginning of a digest.", autocompletion=stored_references
        ),
    ],
    *,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="OS/ARCH[/VARIANT]", help="Of several the one for this platform."),
    ] = None,
) -> Result:
    """Show all about an image."""
    from datetime import UTC, datetime  # noqa: PLC0415 - not for help and completion

    from micropod_img.render.document import image_object  # noqa: PLC0415 - the same
    from micropod_img.render.images import image_details  # noqa: PLC0415 - the same

    image = ctx.ensure_object(Settings).service().get_image(ref, platform=platform)
    return Result(
        data=lambda: {"image": image_object(image)},
        text=lambda style: image_details(image, datetime.now(UTC), style),
        quiet=lambda: image.digest,
    )
