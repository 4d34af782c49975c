"""``pod``: root filesystems of their own, made of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from micropod_img.cli.completion import stored_pods, stored_references
from micropod_img.cli.limit_options import MaxDepth, MaxEntries, MaxFileSize, MaxRatio, MaxSize, limited
from micropod_img.cli.progress import MODES, progress_to_stderr
from micropod_img.cli.pull_options import Insecure, Platform, Policy, Progress, StallTimeout, Timeout, pulling
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings
from micropod_img.cli.values import choice
from micropod_img.errors import MicropodError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from micropod_img.models import Pod

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PodId = Annotated[str, typer.Argument(metavar="ID", help="A pod's id.", autocompletion=stored_pods)]


@app.callback()
def pod(ctx: typer.Context) -> None:
    """Make, list and remove pods."""
    ctx.ensure_object(Settings).command = f"pod {ctx.invoked_subcommand}"


@app.command()
def create(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="An image.", autocompletion=stored_references)],
    *,
    pod_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Letters, digits, '_', '.' and '-'; made up if left out.")
    ] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Add a config.json, with which any OCI runtime starts it.")
    ] = False,
    args: Annotated[
        str | None, typer.Option("--args", metavar="COMMAND", help="Instead of the image's command, in a bundle.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Let nobody write to it.")] = False,
    terminal: Annotated[bool, typer.Option("--tty", "-t", help="Give a bundle's process a terminal.")] = False,
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
    """Make a pod of an image and mount it; print where its files are."""
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
        made = service.create_pod(
            ref,
            pod_id=pod_id,
            platform=platform,
            bundle=bundle,
            args=None if args is None else _words(args),
            read_only=read_only,
            terminal=terminal,
            limits=limits,
            **how,
        )
    return _of_one(made, lambda: str(made.rootfs))


@app.command()
def ls(ctx: typer.Context) -> Result:
    """List pods, the oldest first."""
    from datetime import UTC, datetime  # noqa: PLC0415 - not for help and completion

    from micropod_img.render.pods import pod_table, pods_object  # noqa: PLC0415 - the same

    pods = ctx.ensure_object(Settings).service().list_pods()
    return Result(
        data=lambda: pods_object(pods),
        text=lambda style: pod_table(pods, datetime.now(UTC), style),
        quiet=lambda: "\n".join(one.id for one in pods),
    )


@app.command()
def inspect(ctx: typer.Context, pod_id: PodId) -> Result:
    """Say all about a pod."""
    from micropod_img.render.pods import pod_object, pod_text  # noqa: PLC0415 - not for help and completion

    found = ctx.ensure_object(Settings).service().get_pod(pod_id)
    return Result(
        data=lambda: {"pod": pod_object(found)},
        text=lambda style: pod_text(found, style),
        quiet=lambda: found.id,
    )


@app.command()
def mount(ctx: typer.Context, pod_id: PodId) -> Result:
    """Mount a pod again, as after a reboot; print where its files are."""
    mounted = ctx.ensure_object(Settings).service().mount_pod(pod_id)
    return _of_one(mounted, lambda: str(mounted.rootfs))


@app.command()
def umount(ctx: typer.Context, pod_id: PodId) -> Result:
    """Unmount a pod; what was written to it stays."""
    unmounted = ctx.ensure_object(Settings).service().unmount_pod(pod_id)
    return _of_one(unmounted, lambda: unmounted.id)


@app.command()
def rm(
    ctx: typer.Context,
    pod_ids: Annotated[list[str], typer.Argument(metavar="ID", help="Pods' ids.", autocompletion=stored_pods)],
) -> Result:
    """Unmount pods and remove them, with all that was written to them."""
    from micropod_img.render.pods import removed_pods_object  # noqa: PLC0415 - not for help and completion

    service = ctx.ensure_object(Settings).service()
    removed: list[str] = []
    failures: list[tuple[str, MicropodError]] = []
    for pod_id in dict.fromkeys(pod_ids):
        try:
            service.remove_pod(pod_id)
        except MicropodError as error:
            failures.append((pod_id, error))
        else:
            removed.append(pod_id)
    if failures and not removed and len(failures) == 1:
        raise failures[0][1]
    return Result(
        data=lambda: removed_pods_object(removed, failures),
        text=lambda _style: "\n".join(removed),
        quiet=lambda: "\n".join(removed),
        errors=[error for _, error in failures],
    )


def _of_one(shown: Pod, text: Callable[[], str]) -> Result:
    from micropod_img.render.pods import pod_object  # noqa: PLC0415 - not for help and completion

    return Result(data=lambda: {"pod": pod_object(shown)}, text=lambda _style: text(), quiet=lambda: shown.id)


def _words(text: str) -> list[str]:
    """Return the words of a command, with quotes as in a shell.

    Raises:
        UsageError: A quote is not closed.
    """
    import shlex  # noqa: PLC0415 - not for help and completion

    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--args: {text!r} is not a command: {error}") from error
