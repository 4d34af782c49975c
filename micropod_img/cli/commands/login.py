"""``login``: check a credential against a registry, and store it."""

from __future__ import annotations

from typing import Annotated

import typer

from micropod_img.cli.registry_options import (
    CaFile,
    Insecure,
    PasswordStdin,
    Timeout,
    TokenStdin,
    Username,
    asked_credential,
    host_options,
)
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def login(
    ctx: typer.Context,
    registry: Annotated[
        str, typer.Argument(metavar="REGISTRY", help="HOST[:PORT], or HOST[:PORT]/NAMESPACE for a part of one.")
    ],
    *,
    username: Username = None,
    password_stdin: PasswordStdin = False,
    token_stdin: TokenStdin = False,
    insecure: Insecure = False,
    ca_file: CaFile = None,
    timeout: Timeout = None,
) -> Result:
    """Check a credential against a registry, and store it."""
    from micropod_img.pull.login_check import LoginTarget  # noqa: PLC0415 - not for help and completion
    from micropod_img.render.text import one_line  # noqa: PLC0415 - the same

    settings = ctx.ensure_object(Settings)
    target = LoginTarget.parse(registry)
    options = host_options(
        insecure=insecure, timeout=timeout, stall_timeout=None, ca_file=ca_file, registries_conf=None
    )
    service = settings.service()
    credential = asked_credential(
        username=username, password_stdin=password_stdin, token_stdin=token_stdin, registry=str(target)
    )
    report = service.registries.login(registry, credential, options=options)
    lines = [f"logged in to {one_line(str(report.target))}; stored in {one_line(report.stored_in)}"]
    if report.check.value != "accepted":
        lines.append("the registry did not prove that the credential is right: it lets everybody in")
    if report.shadowed_by is not None:
        lines.append(f"another credential is found before this one: that of {one_line(report.shadowed_by)}")
    return Result(
        data=lambda: {
            "registry": str(report.target),
            "stored_in": report.stored_in,
            "check": report.check.value,
            "shadowed_by": report.shadowed_by,
        },
        text=lambda _style: "\n".join(lines),
        quiet=lambda: str(report.target),
    )
