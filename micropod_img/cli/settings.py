"""The options that every command has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micropod_img.config import Config
    from micropod_img.progress import Event, ProgressSink
    from micropod_img.service import ImageService


class Settings:
    """What the global options say; they may stand before the command's name and behind it.

    Attributes:
        command: The command that was asked for; None as long as that is not known.
        root: What ``--root`` names.
        config: What ``--config`` names.
        as_json: Whether stdout is to be one JSON document.
        quiet: Whether to say only what was asked for.
        verbose: Whether to say more of what went wrong.
        json_lines: Whether stderr is JSON lines (``--progress json``).
    """

    def __init__(self) -> None:
        self.command: str | None = None
        self.root: str | None = None
        self.config: str | None = None
        self.as_json = False
        self.quiet = False
        self.verbose = False
        self.json_lines = False

    def configuration(self) -> Config:
        """Return the configuration, for commands that have nothing to do with a store."""
        import os  # noqa: PLC0415 - help, completion and usage errors need none of this
        from pathlib import Path  # noqa: PLC0415 - the same

        from micropod_img.config import load_config  # noqa: PLC0415 - the same
        from micropod_img.invoker import invoking_uid  # noqa: PLC0415 - the same

        named = None if self.config is None else Path(self.config)
        return load_config(named, os.environ, uid=invoking_uid())

    def service(self, sink: ProgressSink | None = None, *, damaged: bool = False) -> ImageService:
        """Return the service for the store that is meant.

        Args:
            sink: Is told of progress; what a user must know is written to stderr if None.
            damaged: As for `ImageService`.
        """
        from micropod_img.service import ImageService  # noqa: PLC0415 - help, completion and usage errors need none

        return ImageService(self.root, self.config, damaged=damaged, progress=sink or self._warn)

    def _warn(self, event: Event) -> None:
        if not self.quiet:
            from micropod_img.cli.progress import warnings  # noqa: PLC0415 - there is nothing to say on most days

            warnings()(event)
