"""``version``: of the program and of the tools that it ships."""

from __future__ import annotations

import typer

from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def version(ctx: typer.Context) -> Result:
    """Show the versions of micropod-img, crane and umoci."""
    return version_result(ctx.ensure_object(Settings))


def version_result(settings: Settings) -> Result:
    """Return the versions, the bytes of the tools checked."""
    from importlib import metadata  # noqa: PLC0415 - not for help and completion

    from micropod_img.render.document import version_object  # noqa: PLC0415 - the same
    from micropod_img.render.reports import version_text  # noqa: PLC0415 - the same
    from micropod_img.tools import tool_versions  # noqa: PLC0415 - the same

    try:
        own = metadata.version("micropod-img")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    tools = tool_versions(settings.configuration().tools_dir)
    return Result(
        data=lambda: version_object(own, tools),
        text=lambda _style: version_text(own, tools, verbose=settings.verbose),
        quiet=lambda: own,
    )
