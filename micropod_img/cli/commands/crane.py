"""``crane``: become the pinned crane."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand

from micropod_img.cli.settings import Settings
from micropod_img.errors import ToolError

if TYPE_CHECKING:
    from typer._click.core import Context  # typer's own copy of click, which it does not export

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Passthrough(TyperCommand):
    """Takes all arguments as they are, ``--help`` and ``--`` too."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Leave every argument to the program that is run."""
        ctx.args = args
        return args


@app.command(cls=Passthrough, options_metavar="...")
def crane(ctx: typer.Context) -> None:
    """Run the pinned crane; all that follows is for it."""
    from micropod_img import run  # noqa: PLC0415 - not for help and completion

    tool = ctx.ensure_object(Settings).service().tool("crane")
    try:
        run.replace_process([str(tool.path), *ctx.args], env=os.environ)
    except run.ProgramNotFoundError as error:
        raise ToolError(f"{tool.path} cannot be started: {error.__cause__}", code="tool-broken") from error
