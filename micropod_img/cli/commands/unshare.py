"""``unshare``: run a program where the pods of an ordinary user are mounted."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Annotated

import typer

from micropod_img.cli.settings import Settings
from micropod_img.errors import NotFoundError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


# What stands behind the command is the command's own, --help too.
@app.command(context_settings={"allow_interspersed_args": False})
def unshare(
    ctx: typer.Context,
    *,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="The program and its arguments; $SHELL if none.")
    ] = None,
) -> None:
    """Run a program where your pods are mounted."""
    from micropod_img import run  # noqa: PLC0415 - not for help and completion

    settings = ctx.ensure_object(Settings)
    service = settings.service()
    argv = command or [os.environ.get("SHELL") or "/bin/sh"]
    program = shutil.which(argv[0])
    if program is None:
        raise NotFoundError(f"there is no program {argv[0]!r}", code="no-such-program")
    notice = service.enter_user_namespace()
    if notice is not None:
        sys.stderr.write(f"micropod-img: {notice}\n")
        sys.stderr.flush()
    # What runs in there, and starts micropod-img again, means the same store.
    environment = {**os.environ, "MICROPOD_ROOT": str(service.root)}
    if settings.config is not None:
        environment["MICROPOD_CONFIG"] = os.path.abspath(settings.config)  # noqa: PTH100 - links stay as they are
    try:
        run.replace_process([program, *argv[1:]], env=environment)
    except run.ProgramNotFoundError as error:
        raise NotFoundError(f"{program} cannot be started: {error.__cause__}", code="no-such-program") from error
