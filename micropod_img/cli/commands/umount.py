"""``umount``: end what ``mount`` began."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def umount(
    ctx: typer.Context,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where an image is mounted.")],
) -> Result:
    """Unmount an image."""
    from micropod_img.render.pods import rootfs_object  # noqa: PLC0415 - not for help and completion

    rootfs = ctx.ensure_object(Settings).service().unmount_image(directory)
    return Result(
        data=lambda: rootfs_object(rootfs),
        text=lambda _style: str(rootfs),
        quiet=lambda: str(rootfs),
    )
