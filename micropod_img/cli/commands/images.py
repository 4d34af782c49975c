"""``images``: list what is here."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated

import typer

from micropod_img.cli.completion import stored_references
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

if TYPE_CHECKING:
    from micropod_img.errors import MicropodError
    from micropod_img.service import BrokenImage

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def images(
    ctx: typer.Context,
    filters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILTER",
            help="Names, with or without tag, patterns such as '*/app:1.*', or beginnings of digests (sha256:…).",
            autocompletion=stored_references,
        ),
    ] = None,
    *,
    digests: Annotated[bool, typer.Option("--digests", help="Show whole digests.")] = False,
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Show everything in full.")] = False,
) -> Result:
    """List images."""
    from datetime import UTC, datetime  # noqa: PLC0415 - not for help and completion

    from micropod_img.render.document import images_object  # noqa: PLC0415 - the same
    from micropod_img.render.images import image_table, matching  # noqa: PLC0415 - the same

    broken: list[MicropodError] = []
    listed = ctx.ensure_object(Settings).service().list_images(lambda one: broken.append(_named(one)))
    shown = matching(listed, filters or [])
    return Result(
        data=lambda: images_object(shown),
        text=lambda style: image_table(shown, datetime.now(UTC), style, digests=digests, no_trunc=no_trunc),
        quiet=lambda: "\n".join(dict.fromkeys(image.digest for image in shown)),
        errors=broken,
    )


def _named(broken: BrokenImage) -> MicropodError:
    """Return why an image is broken, in words that say which."""
    if broken.ref in broken.error.message:
        return broken.error
    error = copy.copy(broken.error)
    error.message = f"{broken.ref}: {error.message}"
    return error
