"""The tags of a repository, in an order in which people look for versions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from micropod_img.pull.ask import ask
from micropod_img.pull.crane_errors import Request
from micropod_img.pull.private_place import private_place
from micropod_img.pull.retry import Retries

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from micropod_img.cancellation import Cancellation
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.hosts import Hosts

_END = (0, 0, "")
_PRERELEASE = re.compile(r"[-._]?(alpha|beta|dev|pre|preview|rc|snapshot)(?![a-z])", re.IGNORECASE)


def list_tags(
    repository: str, program: Path, hosts: Hosts, *, sink: ProgressSink, cancellation: Cancellation
) -> tuple[str, ...]:
    """Return the tags of a repository, as its own registry lists them; no mirror is asked.

    Args:
        repository: A reference without tag and digest.
        program: Path of the verified crane.
        hosts: How registries are reached.
        sink: Is told of progress.
        cancellation: Ends the work.

    Raises:
        UsageError: As of `Hosts.repository`.
        MicropodError: As the table of `micropod_img.pull.crane_errors` says.
    """
    reference = hosts.repository(repository)
    endpoint = hosts.direct_endpoint(reference)
    limits = hosts.limits()
    retries = Retries(reference.name, limits, others_left=False, sink=sink, cancellation=cancellation)
    with private_place() as directory:
        _, tags = ask(
            endpoint,
            program,
            directory,
            hosts.settings,
            request=Request(reference.name, endpoint.host, "resolve"),
            question=lambda crane, request: crane.tags(request, cancellation=cancellation),
            retries=retries,
        )
    return sorted_as_versions(tags)


def sorted_as_versions(tags: Iterable[str]) -> tuple[str, ...]:
    """Sort tags so that numbers in them count as numbers, and what comes before a release stands before it.

    ``1.9`` is before ``1.10-rc1``, and that before ``1.10``, and that before ``1.10-alpine``.
    """
    return tuple(sorted(set(tags), key=_version_key))


def _version_key(tag: str) -> tuple[list[tuple[int, int, str]], str]:
    parts: list[tuple[int, int, str]] = []
    for word in re.findall(r"[0-9]+|[^0-9]+", tag.removeprefix("v") if tag[1:2].isdigit() else tag):
        if word.isdecimal():
            parts.append((1, int(word), ""))
        elif (early := _PRERELEASE.match(word)) is not None:
            parts += [(-1, 0, early[1].lower()), (2, 0, word[early.end() :])]
        else:
            parts.append((2, 0, word))
    return [*parts, _END], tag
