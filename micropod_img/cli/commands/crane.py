"""``crane``: become the pinned crane."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand

from micropod_img.cli.settings import Settings
from micropod_img.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typer._click.core import Context  # typer's own copy of click, which it does not export

    from micropod_img.config import Config

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

    service = ctx.ensure_object(Settings).service()
    tool = service.tool("crane")
    try:
        run.replace_process([str(tool.path), *ctx.args], env=_environment(os.environ, service.config))
    except run.ProgramNotFoundError as error:
        raise ToolError(f"{tool.path} cannot be started: {error.__cause__}", code="tool-broken") from error


def _environment(environment: Mapping[str, str], config: Config) -> dict[str, str]:
    """Return the user's environment, with what of the configuration crane can be told before it has a registry.

    A private ``DOCKER_CONFIG`` cannot be made: which of the arguments are names of registries only crane knows.
    """
    added: dict[str, str] = {}
    auth_file = config.auth_file or environment.get("MICROPOD_AUTH_FILE")
    if auth_file:
        added["REGISTRY_AUTH_FILE"] = str(auth_file)
    if config.ca_file is not None:
        # It takes the place of the system's bundle, and the system's directories are read as well.
        added["SSL_CERT_FILE"] = str(config.ca_file)
    return {**added, **environment}
