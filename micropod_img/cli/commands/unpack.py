"""``unpack``: an image as a plain directory."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.completion import stored_references
from micropod_img.cli.limit_options import MaxDepth, MaxEntries, MaxFileSize, MaxRatio, MaxSize, limited
from micropod_img.cli.progress import MODES, progress_to_stderr
from micropod_img.cli.pull_options import Insecure, Platform, Policy, Progress, StallTimeout, Timeout, pulling
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings
from micropod_img.cli.values import choice

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def unpack(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="An image.", autocompletion=stored_references)],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="A directory that does not exist or is empty.")],
    *,
    platform: Platform = None,
    policy: Policy = "missing",
    insecure: Insecure = False,
    timeout: Timeout = None,
    stall_timeout: StallTimeout = None,
    progress: Progress = "auto",
    max_size: MaxSize = None,
    max_entries: MaxEntries = None,
    max_file_size: MaxFileSize = None,
    max_depth: MaxDepth = None,
    max_ratio: MaxRatio = None,
) -> Result:
    """Unpack an image to a plain, self-contained directory."""
    from micropod_img.render.pods import rootfs_object  # noqa: PLC0415 - not for help and completion

    settings = ctx.ensure_object(Settings)
    with progress_to_stderr(choice(progress, "--progress", MODES), settings) as told:
        how = pulling(policy=policy, insecure=insecure, timeout=timeout, stall_timeout=stall_timeout, sink=told)
        service = settings.service(told)
        limits = limited(
            service.config.limits,
            max_size=max_size,
            max_entries=max_entries,
            max_file_size=max_file_size,
            max_depth=max_depth,
            max_ratio=max_ratio,
        )
        rootfs = service.unpack(ref, dest, platform=platform, limits=limits, **how)
    return Result(
        data=lambda: rootfs_object(rootfs),
        text=lambda _style: str(rootfs),
        quiet=lambda: str(rootfs),
    )
