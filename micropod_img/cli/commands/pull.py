"""``pull``: fetch images."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.completion import words
from micropod_img.cli.progress import MODES, progress_to_stderr
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings
from micropod_img.cli.values import choice, count, duration
from micropod_img.progress import Event, Finished

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def pull(
    ctx: typer.Context,
    refs: Annotated[list[str], typer.Argument(metavar="REF", help="References, such as alpine:3.20.")],
    *,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="OS/ARCH[/VARIANT]", help="For this platform, instead of the host's."),
    ] = None,
    all_platforms: Annotated[bool, typer.Option("--all-platforms", help="All platforms of an index.")] = False,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="missing|newer|always|never",
            help="When to ask the registry: if the image is not here; for its digest, and for more if that moved; …",
            autocompletion=words("missing", "newer", "always", "never"),
        ),
    ] = "missing",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain HTTP, and HTTPS with any certificate.")
    ] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="For each reference: 90, 90s, 5m, 1h30m.")
    ] = None,
    stall_timeout: Annotated[
        str | None, typer.Option("--stall-timeout", metavar="TIME", help="Without an answer or a new byte.")
    ] = None,
    progress: Annotated[
        str,
        typer.Option(
            "--progress",
            metavar="auto|plain|json|none",
            help="On stderr: bars on a terminal and lines elsewhere; lines; JSON lines; nothing.",
            autocompletion=words(*MODES),
        ),
    ] = "auto",
    jobs: Annotated[
        str | None,
        typer.Option("--jobs", "-j", metavar="N", help="How many references at a time; 4 unless configured."),
    ] = None,
) -> Result:
    """Fetch images; what is here already is not fetched again."""
    from micropod_img.pull.job import POLICIES, PullOptions  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.document import pull_object  # noqa: PLC0415 - the same
    from micropod_img.render.reports import pulled_text  # noqa: PLC0415 - the same

    settings = ctx.ensure_object(Settings)
    options = PullOptions(
        platform,
        all_platforms,
        choice(policy, "--policy", POLICIES),
        insecure,
        duration(timeout, "--timeout"),
        duration(stall_timeout, "--stall-timeout"),
    )
    number = count(jobs, "--jobs")
    ends: dict[str, Finished] = {}
    with progress_to_stderr(choice(progress, "--progress", MODES), settings) as told:

        def sink(event: Event) -> None:
            if isinstance(event, Finished):
                ends[event.ref] = event
            told(event)

        report = settings.service().pull_images(refs, options, jobs=number, progress=sink)
    if report.failures and len(refs) == 1:
        raise report.failures[0].error
    return Result(
        data=lambda: pull_object(report),
        text=lambda style: "\n".join(pulled_text(image, ends.get(image.ref), style) for image in report.images),
        quiet=lambda: "\n".join(image.digest for image in report.images),
        errors=[failure.error for failure in report.failures],
    )
