"""``logout``: forget a registry's credential."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def logout(
    ctx: typer.Context,
    registry: Annotated[str, typer.Argument(metavar="REGISTRY", help="As it was given to login.")],
) -> Result:
    """Forget the credential of a registry that login stored."""
    from micropod_img.render.text import one_line  # noqa: PLC0415 - not for help and completion

    report = ctx.ensure_object(Settings).service().registries.logout(registry)
    lines = [
        f"logged out from {one_line(str(report.target))}: removed from {one_line(one)}" for one in report.removed_from
    ]
    if report.remaining is not None:
        lines.append(f"another credential is still found: that of {one_line(report.remaining)}")
    return Result(
        data=lambda: {
            "registry": str(report.target),
            "removed_from": list(report.removed_from),
            "remaining": report.remaining,
        },
        text=lambda _style: "\n".join(lines),
        quiet=lambda: str(report.target),
    )
