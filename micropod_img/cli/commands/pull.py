"""``pull``: fetch images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from micropod_img.cli.progress import MODES, progress_to_stderr
from micropod_img.cli.pull_options import Platform, Policy, Progress  # noqa: TC001 - typer reads the annotations
from micropod_img.cli.registry_options import (
    CaFile,
    Insecure,
    PasswordStdin,
    RegistriesConf,
    StallTimeout,
    Timeout,
    TokenStdin,
    Username,
    existing_file,
    given_credential,
)
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings
from micropod_img.cli.values import choice, count, duration
from micropod_img.progress import Event, Finished

if TYPE_CHECKING:
    from collections.abc import Sequence

    from micropod_img.progress import ProgressSink
    from micropod_img.pull.options import PullOptions

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def pull(
    ctx: typer.Context,
    refs: Annotated[list[str], typer.Argument(metavar="REF", help="References, such as alpine:3.20.")],
    *,
    platform: Platform = None,
    all_platforms: Annotated[bool, typer.Option("--all-platforms", help="All platforms of an index.")] = False,
    policy: Policy = "missing",
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be fetched from where, and do nothing of it.")
    ] = False,
    username: Username = None,
    password_stdin: PasswordStdin = False,
    token_stdin: TokenStdin = False,
    insecure: Insecure = False,
    ca_file: CaFile = None,
    registries_conf: RegistriesConf = None,
    timeout: Timeout = None,
    stall_timeout: StallTimeout = None,
    progress: Progress = "auto",
    jobs: Annotated[
        str | None,
        typer.Option("--jobs", "-j", metavar="N", help="How many references at a time; 4 unless configured."),
    ] = None,
) -> Result:
    """Fetch images; what is here already is not fetched again."""
    from micropod_img.pull.options import POLICIES, PullOptions  # noqa: PLC0415 - not for help and completion
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
        auth=given_credential(username=username, password_stdin=password_stdin, token_stdin=token_stdin),
        ca_file=existing_file(ca_file, "--ca-file"),
        registries_conf=existing_file(registries_conf, "--registries-conf"),
    )
    number = count(jobs, "--jobs")
    mode = choice(progress, "--progress", MODES)
    if plan:
        if mode == "auto":
            mode = "plain" if settings.verbose else "none"
        with progress_to_stderr(mode, settings) as told:
            return _plans(refs, options, settings, told)
    ends: dict[str, Finished] = {}
    with progress_to_stderr(mode, settings) as told:

        def sink(event: Event) -> None:
            if isinstance(event, Finished):
                ends[event.ref] = event
            told(event)

        report = settings.service(told).pull_images(refs, options, jobs=number, progress=sink)
    if report.failures and len(refs) == 1:
        raise report.failures[0].error
    return Result(
        data=lambda: pull_object(report),
        text=lambda style: "\n".join(pulled_text(image, ends.get(image.ref), style) for image in report.images),
        quiet=lambda: "\n".join(image.digest for image in report.images),
        errors=[failure.error for failure in report.failures],
    )


def _plans(refs: Sequence[str], options: PullOptions, settings: Settings, told: ProgressSink) -> Result:
    from micropod_img.errors import MicropodError  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.document import plans_object  # noqa: PLC0415 - the same
    from micropod_img.render.registries import plan_text  # noqa: PLC0415 - the same

    service = settings.service()
    plans = []
    failures = []
    for ref in refs:
        try:
            plans.append(service.plan_pull(ref, options, progress=told))
        except MicropodError as error:
            if len(refs) == 1:
                raise
            failures.append((ref, error))
    return Result(
        data=lambda: plans_object(plans, failures),
        text=lambda style: "\n\n".join(plan_text(plan, style) for plan in plans),
        quiet=lambda: "\n".join(plan.digest for plan in plans),
        errors=[error for _, error in failures],
    )
