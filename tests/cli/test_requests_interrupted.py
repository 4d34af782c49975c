"""Commands that wait for a registry and are ended: their crane ends with them, and no credential stays anywhere."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import host_platform
from micropod_img.service import ImageService
from tests.cli.command_line import PROGRAM, environment, process
from tests.support.auth_files import auth
from tests.support.faults import on, silent
from tests.support.images import image
from tests.support.layers import layer
from tests.support.processes import PROMPTLY, processes_that_mention, soon
from tests.support.secrecy import SECRET
from tests.support.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.scripted import ScriptedRegistry

IMAGE = image([layer({"etc/motd": b"welcome\n"})], platform=str(host_platform()))
COMMANDS = {
    "tags": ("tags", "--insecure", "HOST/team/app"),
    "login": ("login", "--insecure", "HOST", "-u", "me", "--password-stdin"),
    "plan": ("pull", "--plan", "--policy=always", "--insecure", "HOST/team/app:v1"),
    "newer": ("pull", "--policy=newer", "--insecure", "HOST/team/app:v1"),
    "push": ("push", "--insecure", "HOST/team/app:v1", "HOST/team/copy:v1"),
    "crane": ("crane", "ls", "--insecure", "HOST/team/app"),
}


@pytest.fixture
def extra(tmp_path: Path, scripted: ScriptedRegistry) -> dict[str, str]:
    """The environment of a user with a password for the registry, and a directory for temporary files of their own."""
    for name in ("docker", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {scripted.host: auth("me")}}))
    return {"DOCKER_CONFIG": str(tmp_path / "docker"), "TMPDIR": str(tmp_path / "temporary"), "XDG_RUNTIME_DIR": ""}


@pytest.fixture
def waiting(
    store_root: Path, scripted: ScriptedRegistry, extra: dict[str, str], crane: Path
) -> Callable[[str], subprocess.Popen[bytes]]:
    """Starts a command of which the registry answers nothing; the image is here."""
    assert crane
    name = scripted.serve("team/app", "v1", IMAGE)
    ImageService(store_root).pull_image(name, insecure=True)
    scripted.forget_requests()
    scripted.faults = (Uploads(scripted), on("/v2/", silent()))

    def start(command: str) -> subprocess.Popen[bytes]:
        words = [word.replace("HOST", scripted.host) for word in COMMANDS[command]]
        started = subprocess.Popen(
            [*PROGRAM, f"--root={store_root}", *words],
            env=environment(extra),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert started.stdin is not None
        started.stdin.write(SECRET.encode())
        started.stdin.close()
        assert soon(lambda: bool(scripted.requests)), "the registry was never asked"
        return started

    return start


def files_with_the_secret(*directories: Path) -> list[Path]:
    files = (path for directory in directories for path in directory.rglob("*") if path.is_file())
    encoded = auth("me")["auth"].encode()
    return [path for path in files if any(secret in path.read_bytes() for secret in (SECRET.encode(), encoded))]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_command_that_is_interrupted_leaves_nothing(
    command: str,
    number: signal.Signals,
    waiting: Callable[[str], subprocess.Popen[bytes]],
    scripted: ScriptedRegistry,
    store_root: Path,
) -> None:
    with waiting(command) as started:
        started.send_signal(number)
        # What the user's own crane does about a signal is up to it.
        assert started.wait(PROMPTLY) in ({1, -number} if command == "crane" else {128 + number})
    assert soon(lambda: not processes_that_mention(scripted.host))
    assert files_with_the_secret(store_root, store_root.with_name("temporary")) == []
    assert [*(store_root / "tmp").iterdir(), *(store_root / "locks").iterdir()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_that_is_killed_leaves_is_swept_by_the_next(
    command: str,
    waiting: Callable[[str], subprocess.Popen[bytes]],
    scripted: ScriptedRegistry,
    store_root: Path,
    extra: dict[str, str],
) -> None:
    with waiting(command) as started:
        started.kill()
        started.wait(PROMPTLY)
    assert soon(lambda: not processes_that_mention(scripted.host)), "crane outlived its parent"
    scripted.faults = ()
    scripted.released.set()
    next_of_a_kind = (
        ("pull", "--policy=always") if command in {"push", "newer"} else ("pull", "--plan", "--policy=always")
    )
    said = process(
        f"--root={store_root}", *next_of_a_kind, "--insecure", scripted.reference("team/app", "v1"), extra=extra
    )
    assert said.status == 0, said.err
    assert files_with_the_secret(store_root, store_root.with_name("temporary")) == []
