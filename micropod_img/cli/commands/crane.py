"""``crane``: become the pinned crane."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand

from micropod_img.cli.output import write_error
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
    from micropod_img import fsutil, progress, run  # noqa: PLC0415 - not for help and completion
    from micropod_img.pull.hosts import HostOptions, Hosts  # noqa: PLC0415 - the same
    from micropod_img.pull.passthrough import pass_through  # noqa: PLC0415 - the same
    from micropod_img.tools import find_tool  # noqa: PLC0415 - the same

    config = ctx.ensure_object(Settings).configuration()
    tool = find_tool("crane", directory=config.tools_dir)
    hosts = Hosts(config, HostOptions(), os.environ, progress.silent)
    prepared = pass_through(ctx.args, os.environ, config, hosts)
    for notice in prepared.notices:
        write_error(f"micropod-img: {notice}")
    environment = dict(prepared.environment)
    keep_open = []
    if prepared.authorities:
        keep_open.append(fsutil.memory_file("certificate-authorities", prepared.authorities))
        environment["SSL_CERT_FILE"] = f"/proc/self/fd/{keep_open[0]}"
    try:
        run.replace_process([str(tool.path), *prepared.arguments], env=environment, keep_open=keep_open)
    except run.ProgramNotFoundError as error:
        raise ToolError(f"{tool.path} cannot be started: {error.__cause__}", code="tool-broken") from error
