"""The first question to a registry: with a credential where there is one, and without it where it must not be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from micropod_img import progress
from micropod_img.errors import AuthError, UnavailableError
from micropod_img.pull.access import open_access
from micropod_img.pull.crane import Crane

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from micropod_img.pull.access import AccessSettings
    from micropod_img.pull.crane_errors import Request
    from micropod_img.pull.endpoints import Endpoint
    from micropod_img.pull.retry import Retries

_Answer = TypeVar("_Answer")


def ask(
    endpoint: Endpoint,
    program: Path,
    directory: Path,
    settings: AccessSettings,
    *,
    request: Request,
    question: Callable[[Crane, Request], _Answer],
    retries: Retries,
) -> tuple[Crane, _Answer]:
    """Find the way to a registry by a first question.

    Args:
        endpoint: The registry.
        program: Path of the verified crane.
        directory: A private place.
        settings: What the user said of reaching registries.
        request: The question in words, for events and errors.
        question: What is asked; a second time, without a credential, where it must not be sent.
        retries: Repeats requests where that can help.

    Returns:
        The way, and the answer.

    Raises:
        MicropodError: As the table of `micropod_img.pull.crane_errors` says.
    """
    left = retries.limits.seconds_left()
    access = open_access(endpoint, settings, directory / "home", timeout=left, cancellation=retries.cancellation)
    if access.credential_source is not None:
        retries.sink(progress.CredentialFound(request.ref, endpoint.host, access.credential_source))
    may_leak = access.credential_source is not None and not endpoint.insecure
    crane = Crane(program, access.without_plain_http() if may_leak else access, retries.limits, retries)
    try:
        answer = question(crane, request)
        return crane.with_access(access), answer
    except UnavailableError as error:
        if error.code != "plain-http" or not access.is_https_only(endpoint):
            raise
    # The registry speaks plain HTTP. It may serve strangers too, and the credential stays here.
    withheld = f"{endpoint.host} speaks plain HTTP, so it is not sent the credential ({access.credential_source})"
    retries.sink(progress.Notice(request.ref, f"{withheld}; --insecure sends it"))
    access = open_access(endpoint, settings, directory / "anonymous", anonymous=True)
    crane = Crane(program, access, retries.limits, retries)
    try:
        return crane, question(crane, request)
    except AuthError as error:
        error.message = f"{error.message}; {withheld}"
        error.hint = "if you trust the network in between: --insecure"
        raise
