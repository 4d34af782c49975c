"""Auth files as Docker and Podman write them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from micropod_img.pull.credentials import find_credential
from tests.support.secrecy import SECRET

if TYPE_CHECKING:
    from pathlib import Path

HUB_KEY = "https://index.docker.io/v1/"


def auth(username: str, password: str = SECRET) -> dict[str, str]:
    """Return the entry of a user."""
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def write(path: Path, document: object) -> Path:
    """Write a document, with the directories that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def user_of(
    document: object, directory: Path, host: str, repository: str = "team/app", **environment: str
) -> str | None:
    """The user whose credential a Docker configuration has for a repository."""
    write(directory / "config.json", document)
    found = find_credential(
        host,
        repository,
        environment={"DOCKER_CONFIG": str(directory), "XDG_RUNTIME_DIR": "/nowhere", "HOME": "/nowhere", **environment},
    )
    return found.credential.username if found else None
