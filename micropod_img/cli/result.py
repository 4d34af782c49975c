"""What a command has to say; saying it is `micropod_img.cli.output`'s, once and in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from micropod_img.errors import MicropodError
    from micropod_img.render.document import JsonObject
    from micropod_img.render.style import Style


class Result(NamedTuple):
    """The result of a command in the three forms that users can ask for; only the one that they did is made.

    Attributes:
        data: Makes the ``data`` of the JSON document.
        text: Makes the text for people.
        quiet: Makes the text for ``-q``: just the id or digest.
        errors: What failed while the rest worked; the first one decides the exit status.
    """

    data: Callable[[], JsonObject]
    text: Callable[[Style], str]
    quiet: Callable[[], str]
    errors: Sequence[MicropodError] = ()
