"""``tag``: give an image another name."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.completion import stored_references
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def tag(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A reference, or the beginning of a digest.", autocompletion=stored_references
        ),
    ],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The new reference.")],
) -> Result:
    """Give an image another name."""
    from micropod_img.reference import Reference  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.text import one_line  # noqa: PLC0415 - the same

    reference = Reference.parse(destination)
    ctx.ensure_object(Settings).service().tag_image(source, reference)
    return Result(
        data=lambda: {"source": source, "ref": str(reference)},
        text=lambda _style: f"tagged {one_line(source)} as {reference.familiar}",
        quiet=lambda: str(reference),
    )
