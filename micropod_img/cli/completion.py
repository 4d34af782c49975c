"""What a shell offers behind a command when its user presses tab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer  # noqa: TC002 - typer evaluates annotations

from micropod_img.cli.settings import Settings
from micropod_img.errors import MicropodError

if TYPE_CHECKING:
    from collections.abc import Callable


def stored_references(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the references that the store has, in the form that they are typed in."""
    from micropod_img.render.images import familiar  # noqa: PLC0415 - only completion needs it here

    try:
        images = _settings(ctx).service().list_images(lambda _broken: None)
    except MicropodError:
        return []
    names = {name for image in images if image.ref for name in (familiar(image.ref), image.ref)}
    return sorted(name for name in names if name.startswith(incomplete))


def stored_pods(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the ids of the pods that are here, and not yet on the command line."""
    try:
        pods = _settings(ctx).service().list_pods()
    except MicropodError:
        return []
    named = ctx.params.get("pod_ids") or ()
    return sorted(pod.id for pod in pods if pod.id.startswith(incomplete) and pod.id not in named)


def words(*choices: str) -> Callable[[str], list[str]]:
    """Offer words of a fixed list."""

    def offered(incomplete: str) -> list[str]:
        return [word for word in choices if word.startswith(incomplete)]

    return offered


def _settings(ctx: typer.Context) -> Settings:
    """Return the global options so far, wherever they stand."""
    settings = Settings()
    given = {**ctx.find_root().params, **{key: value for key, value in ctx.params.items() if value}}
    settings.root, settings.config = given.get("root"), given.get("config")
    return settings
