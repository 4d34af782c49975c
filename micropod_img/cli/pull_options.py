"""The options of commands that pull, be it to make something of the image at once, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from micropod_img.cli.completion import words
from micropod_img.cli.progress import MODES
from micropod_img.cli.registry_options import Insecure, StallTimeout
from micropod_img.cli.values import choice, duration

if TYPE_CHECKING:
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.keywords import Pulling

__all__ = ["Insecure", "Platform", "Policy", "Progress", "StallTimeout", "Timeout", "pulling"]

Platform: TypeAlias = Annotated[
    str | None,
    typer.Option("--platform", metavar="OS/ARCH[/VARIANT]", help="For this platform, instead of the host's."),
]
Policy: TypeAlias = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="missing|newer|always|never",
        help="When to ask the registry: if the image is not here; for its digest, and for more if that moved; …",
        autocompletion=words("missing", "newer", "always", "never"),
    ),
]
Timeout: TypeAlias = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="For the pull: 90, 90s, 5m, 1h30m.")
]
Progress: TypeAlias = Annotated[
    str,
    typer.Option(
        "--progress",
        metavar="auto|plain|json|none",
        help="On stderr: bars on a terminal and lines elsewhere; lines; JSON lines; nothing.",
        autocompletion=words(*MODES),
    ),
]


def pulling(
    *, policy: str, insecure: bool, timeout: str | None, stall_timeout: str | None, sink: ProgressSink
) -> Pulling:
    """Return how the service shall pull, as the options say.

    Raises:
        UsageError: One of them is wrong.
    """
    from micropod_img.pull.options import POLICIES  # noqa: PLC0415 - not for help and completion

    return {
        "policy": choice(policy, "--policy", POLICIES),
        "insecure": insecure,
        "timeout": duration(timeout, "--timeout"),
        "stall_timeout": duration(stall_timeout, "--stall-timeout"),
        "progress": sink,
    }
