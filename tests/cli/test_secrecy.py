"""The secret is nowhere but where its user keeps it, and in the private file of the one crane that needs it.

The registry itself looks: whenever it is asked, it searches all processes of this host and all files of the command.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import host_platform
from micropod_img.pull import pull as pulling
from micropod_img.service import ImageService
from tests.cli.command_line import PROGRAM, environment
from tests.support.credential_helper import make_helper
from tests.support.faults import basic_auth, bearer_auth
from tests.support.images import image
from tests.support.layers import layer
from tests.support.token_server import TokenServer
from tests.support.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.command_line import CommandLine
    from tests.support.scripted import Fault, RecordedRequest, Response, ScriptedRegistry

USER = "user"
SECRET = secrets.token_urlsafe()  # no other test, at work at the same time, has it
ENCODED = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
IMAGE = image([layer({"etc/motd": b"welcome\n"})], platform=str(host_platform()))
ENTRY: dict[str, object] = {"auth": ENCODED}


@dataclass
class Search:
    """A fault of a registry that changes nothing: it looks for the secret where it must not be.

    Attributes:
        places: Directories in which the command under test may write.
        found: Where the secret was that it must not be.
        private: How often it was in a file that only its owner may read.
    """

    places: tuple[Path, ...]
    found: list[str] = field(default_factory=list)
    private: int = 0

    def __call__(self, _request: RecordedRequest, response: Response) -> Response:
        self.look()
        return response

    def look(self) -> None:
        """Search all processes, and all files."""
        for process in Path("/proc").glob("[0-9]*"):
            for what in ("cmdline", "environ"):
                if is_in(process / what):
                    self.found.append(f"{process.name} {what}")
        for place in self.places:
            for folder, _, names in os.walk(place):
                for name in names:
                    self._look_into(Path(folder, name))

    def _look_into(self, path: Path) -> None:
        if is_in(path):
            self.private += 1
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
            self.found += [f"{path} has mode {mode:o}"] if mode & 0o077 else []


def is_in(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:  # it is gone, or not ours to read
        return False
    return SECRET.encode() in content or ENCODED.encode() in content


@dataclass(frozen=True)
class User:
    """Who has a secret: how their environment and standard input bring it in, and how the registry asks for it."""

    registry: ScriptedRegistry
    home: Path
    root: Path
    search: Search

    def asks_for(self, *faults: Fault) -> None:
        self.registry.faults = (Uploads(self.registry), *faults, self.search)

    def run(self, *words: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command with ``-v``, and look for the secret in all that it says and leaves behind."""
        self.search.private = 0
        own = {"HOME": str(self.home), "DOCKER_CONFIG": str(self.home / ".docker"), "XDG_RUNTIME_DIR": str(self.home)}
        done = subprocess.run(
            [*PROGRAM, f"--root={self.root}", "-v", *words],
            input=stdin,
            env=environment({**own, "TMPDIR": str(self.search.places[1]), **extra}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not [secret for secret in (SECRET, ENCODED) if secret in done.stdout + done.stderr], done
        assert self.search.found == []
        during = self.search.private
        self.search.look()
        assert self.search.private == during, "it is still in a file"
        self.search.private = during
        return done

    def write(self, name: str, document: object) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        return path


@pytest.fixture
def user(tmp_path: Path, store_root: Path, scripted: ScriptedRegistry) -> User:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    scripted.serve("team/app", "v1", IMAGE)
    user = User(scripted, tmp_path / "home", store_root, Search((store_root, tmp_path / "tmp")))
    user.asks_for(basic_auth(USER, SECRET))
    return user


def given(_user: User) -> tuple[tuple[str, ...], dict[str, str], str]:
    return ("--username", USER, "--password-stdin"), {}, SECRET


def registry_token(user: User) -> tuple[tuple[str, ...], dict[str, str], str]:
    user.asks_for(bearer_auth(user.registry.url, token=SECRET))
    return ("--token-stdin",), {}, SECRET


def identity_token(user: User) -> tuple[tuple[str, ...], dict[str, str], str]:
    user.asks_for(TokenServer(user.registry, refresh_tokens={SECRET}, readable={"team/app"}))
    user.write(".docker/config.json", {"auths": {user.registry.host: {"identitytoken": SECRET}}})
    return (), {}, ""


def in_file(name: str, *variables: str) -> Callable[[User], tuple[tuple[str, ...], dict[str, str], str]]:
    def write(user: User) -> tuple[tuple[str, ...], dict[str, str], str]:
        path = user.write(name, {"auths": {f"{user.registry.host}/team": ENTRY}})
        return (), dict.fromkeys(variables, str(path)), ""

    return write


def in_helper(document: Callable[[str], object]) -> Callable[[User], tuple[tuple[str, ...], dict[str, str], str]]:
    def make(user: User) -> tuple[tuple[str, ...], dict[str, str], str]:
        helper = make_helper(user.home / "bin", kept={user.registry.host: (USER, SECRET)})
        user.write(".docker/config.json", document(user.registry.host))
        return (), dict(helper.in_path()), ""

    return make


SOURCES = {
    "given": given,
    "registry token": registry_token,
    "identity token": identity_token,
    "MICROPOD_AUTH_FILE": in_file("a.json", "MICROPOD_AUTH_FILE"),
    "REGISTRY_AUTH_FILE": in_file("b.json", "REGISTRY_AUTH_FILE"),
    "Podman's file": in_file("containers/auth.json"),
    "Docker's file": in_file(".docker/config.json"),
    "credHelpers": in_helper(lambda host: {"credHelpers": {host: "test"}}),
    "credsStore": in_helper(lambda _host: {"credsStore": "test"}),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_it_is_nowhere_while_an_image_is_pulled_wherever_it_comes_from(
    source: Callable[[User], tuple[tuple[str, ...], dict[str, str], str]], user: User
) -> None:
    options, extra, stdin = source(user)
    done = user.run("pull", "--insecure", user.registry.reference("team/app", "v1"), *options, stdin=stdin, **extra)
    assert done.returncode == 0, done.stderr
    assert user.search.private > 0, "crane's own configuration was never seen, so this test has seen nothing"


COMMANDS = {
    "plan": ("--json", "pull", "--plan", "--policy=always", "--insecure", "NAME"),
    "tags": ("--json", "tags", "--insecure", "REPOSITORY"),
    "push": ("--json", "push", "--insecure", "NAME", "DESTINATION"),
    "crane": ("crane", "copy", "--insecure", "NAME", "DESTINATION"),
}


@pytest.fixture
def words(user: User) -> Callable[[str], list[str]]:
    names = {
        "NAME": user.registry.reference("team/app", "v1"),
        "DESTINATION": user.registry.reference("team/copy", "v1"),
        "REPOSITORY": f"{user.registry.host}/team/app",
        "HOST": user.registry.host,
    }
    return lambda command: [names.get(word, word) for word in COMMANDS[command]]


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_nowhere_while_another_command_is_at_work(
    command: str, user: User, words: Callable[[str], list[str]]
) -> None:
    user.asks_for()
    ImageService(user.root).pull_image(user.registry.reference("team/app", "v1"))
    user.registry.forget_requests()
    user.asks_for(basic_auth(USER, SECRET))
    user.write(".docker/config.json", {"auths": {f"{user.registry.host}/team": ENTRY}})
    user.run(*words(command))
    assert any("authorization" in request.headers for request in user.registry.requests)
    # The user's crane asks for it over a pipe; the others have it in a file of their own.
    assert (user.search.private == 0) is (command == "crane")


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_in_no_error_when_it_is_refused(command: str, user: User, words: Callable[[str], list[str]]) -> None:
    user.asks_for()
    ImageService(user.root).pull_image(user.registry.reference("team/app", "v1"))
    user.write(".docker/config.json", {"auths": {f"{user.registry.host}/team": ENTRY}})
    user.asks_for(basic_auth(USER, "another password"))
    assert user.run(*words(command)).returncode == (1 if command == "crane" else 4)


@pytest.mark.parametrize("password", [SECRET, f"{SECRET}-of-yesterday"], ids=["right", "wrong"])
def test_a_login_puts_it_where_it_says_and_nowhere_else(password: str, user: User) -> None:
    done = user.run("login", "--insecure", user.registry.host, "-u", USER, "--password-stdin", stdin=f"{password}\n")
    file = user.home / "containers/auth.json"
    assert (done.returncode, file.exists()) == ((0, True) if password == SECRET else (4, False))
    assert not file.exists() or file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("option", ["--json", "-v"])
def test_the_secret_is_in_no_crash(
    option: str, micropod: CommandLine, tmp_path: Path, piped: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_keywords: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(pulling, "pull", broken)
    piped(SECRET)
    said = micropod(option, "pull", "example.com/app:v1", "-u", "user", "--password-stdin")
    assert said.status == 1
    logs = [path.read_text() for path in tmp_path.rglob("*.log")]
    assert len(logs) == 1
    assert "a bug" in logs[0]
    assert SECRET not in said.out + said.err + logs[0]
