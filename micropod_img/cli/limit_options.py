"""The options that limit what an image may take when it is unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from micropod_img.errors import UsageError

if TYPE_CHECKING:
    from micropod_img.limits import Limits

MaxSize: TypeAlias = Annotated[
    str | None, typer.Option("--max-size", metavar="SIZE", help="Of all files of the image: 2G, 512MiB.")
]
MaxEntries: TypeAlias = Annotated[
    str | None, typer.Option("--max-entries", metavar="N", help="Files, directories and links of the image.")
]
MaxFileSize: TypeAlias = Annotated[str | None, typer.Option("--max-file-size", metavar="SIZE", help="Of one file.")]
MaxDepth: TypeAlias = Annotated[
    str | None, typer.Option("--max-depth", metavar="N", help="Directories that a file may be deep.")
]
MaxRatio: TypeAlias = Annotated[
    str | None, typer.Option("--max-ratio", metavar="N", help="Unpacked bytes of a layer for each stored one.")
]


def limited(base: Limits, **options: str | None) -> Limits:
    """Return the limits that hold, by default those of the configuration.

    Args:
        base: What the configuration says.
        **options: By the names of the fields of `Limits`, what was given on the command line.

    Raises:
        UsageError: One of them is no such limit.
    """
    from micropod_img.limits import InvalidLimitError  # noqa: PLC0415 - not for help and completion

    try:
        return base.changed({name: text for name, text in options.items() if text is not None})
    except InvalidLimitError as error:
        raise UsageError(f"--{error.name}: {error.problem}", hint=error.hint) from error
