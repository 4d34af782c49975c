"""A credential helper that is really executed: ``docker-credential-NAME``, keeping its secrets in a file beside it."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The protocol of docker-credential-helpers, and a record of every call. While it runs it looks through /proc for what
# it keeps: nobody may have that in an argument or in the environment.
_PROGRAM = """#!{python} -I
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
kept_file, calls_file = here / "{name}.kept", here / "{name}.calls"
kept = json.loads(kept_file.read_text())
action, said = sys.argv[1], sys.stdin.read()
seen = []
for process in pathlib.Path("/proc").glob("[0-9]*"):
    for what in ("cmdline", "environ"):
        try:
            content = (process / what).read_bytes()
        except OSError:
            continue
        seen += [f"{{process.name}} {{what}}" for _, secret in kept.values() if secret.encode() in content]
with calls_file.open("a") as calls:
    said_openly = json.loads(said)["ServerURL"] if action == "store" else said
    calls.write(json.dumps([sys.argv[1:], said_openly, dict(os.environ), seen]) + "\\n")
if action == "get":
    if said not in kept:
        print("credentials not found in native keychain")
        sys.exit(1)
    username, secret = kept[said]
    print(json.dumps({{"ServerURL": said, "Username": username, "Secret": secret}}))
elif action == "store":
    document = json.loads(said)
    kept[document["ServerURL"]] = [document["Username"], document["Secret"]]
elif action == "erase":
    del kept[said]
kept_file.write_text(json.dumps(kept))
"""


@dataclass(frozen=True)
class HelperCall:
    """One run of the helper: its arguments, the registry it was told, its environment, and where it saw a secret."""

    arguments: list[str]
    server: str
    environment: dict[str, str]
    secrets_seen: list[str]


@dataclass(frozen=True)
class HelperProgram:
    """A credential helper in a directory that stands in PATH."""

    name: str
    directory: Path

    @property
    def path(self) -> Path:
        return self.directory / f"docker-credential-{self.name}"

    @property
    def kept(self) -> dict[str, list[str]]:
        """What it keeps: user name and secret by registry."""
        kept: dict[str, list[str]] = json.loads((self.directory / f"{self.name}.kept").read_text())
        return kept

    @property
    def calls(self) -> list[HelperCall]:
        """All its runs."""
        file = self.directory / f"{self.name}.calls"
        return [HelperCall(*json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def in_path(self, **environment: str) -> Mapping[str, str]:
        """Return an environment in which it is found."""
        return {"PATH": f"{self.directory}:{os.environ['PATH']}", **environment}


def make_helper(
    directory: Path, name: str = "test", kept: Mapping[str, tuple[str, str]] | None = None
) -> HelperProgram:
    """Write a credential helper that keeps these user names and secrets, by registry."""
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.kept").write_text(json.dumps(dict(kept or {})))
    return _write(directory, name, _PROGRAM.format(python=sys.executable, name=name))


def make_broken_helper(directory: Path, script: str, name: str = "broken") -> HelperProgram:
    """Write a credential helper that is this shell script."""
    directory.mkdir(exist_ok=True)
    return _write(directory, name, f"#!/bin/sh\n{script}\n")


def seconds_without_answer(message: str) -> float:
    """Return for how long a helper was waited for, as an error says that it did not answer."""
    found = re.search(r"did not answer within (\S+) s", message)
    assert found, message
    return float(found[1])


def _write(directory: Path, name: str, program: str) -> HelperProgram:
    helper = HelperProgram(name, directory)
    helper.path.write_text(program)
    helper.path.chmod(0o755)
    return helper
