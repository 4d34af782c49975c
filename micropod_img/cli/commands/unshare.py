"""``unshare``: run a program where the pods of an ordinary user are mounted."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand

from micropod_img.cli.settings import Settings
from micropod_img.errors import NotFoundError

if TYPE_CHECKING:
    from typer._click.core import Context  # typer's own copy of click, which it does not export

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Passthrough(TyperCommand):
    """Takes all arguments as they are, ``--help`` and ``--`` too."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Leave every argument to the program that is run."""
        ctx.args = args[1:] if args[:1] == ["--"] else args
        return args


@app.command(cls=Passthrough, options_metavar="[COMMAND]")
def unshare(ctx: typer.Context) -> None:
    """Run COMMAND, or a shell, in the user namespace where pods are mounted; for root, as it is."""
    from micropod_img import run  # noqa: PLC0415 - not for help and completion

    settings = ctx.ensure_object(Settings)
    service = settings.service()
    argv = ctx.args or [os.environ.get("SHELL") or "/bin/sh"]
    program = shutil.which(argv[0])
    if program is None:
        raise NotFoundError(f"there is no program {argv[0]!r}", code="no-such-program")
    notice = service.enter_user_namespace()
    if notice is not None:
        typer.echo(f"micropod-img: {notice}", err=True)
    # What runs in there, and starts micropod-img again, means the same store.
    environment = {**os.environ, "MICROPOD_ROOT": str(service.root)}
    if settings.config is not None:
        environment["MICROPOD_CONFIG"] = os.path.abspath(settings.config)  # noqa: PTH100 - it may be gone
    try:
        run.replace_process([program, *argv[1:]], env=environment)
    except run.ProgramNotFoundError as error:
        raise NotFoundError(f"{program} cannot be started: {error.__cause__}", code="no-such-program") from error
