"""``login`` as a person types it, and as a script pipes it."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.cli.terminal import on_terminal
from tests.support.faults import basic_auth
from tests.support.secrecy import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.command_line import CommandLine
    from tests.cli.terminal import Terminal
    from tests.support.scripted import ScriptedRegistry

USER = "tester"


@pytest.fixture
def auth_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logins are stored; it does not exist."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "docker/config.json"


@pytest.fixture
def host(scripted: ScriptedRegistry) -> str:
    """A registry that lets nobody in without the password."""
    scripted.faults = (basic_auth(USER, SECRET),)
    return scripted.host


@pytest.fixture
def terminal(store_root: Path, host: str, auth_file: Path) -> Iterator[Terminal]:
    """A terminal on which a login has asked for the name."""
    assert not auth_file.exists()
    with on_terminal(f"--root={store_root}", "login", "--insecure", host) as terminal:
        terminal.wait_for(f"User name at {host}: ")
        yield terminal


def test_it_asks_for_name_and_password_and_shows_only_the_name(terminal: Terminal, host: str, auth_file: Path) -> None:
    assert terminal.echoes()
    terminal.type(f"{USER}\n".encode())
    terminal.wait_for(f"Password of {USER} at {host}: ")
    assert not terminal.echoes()
    terminal.type(f"{SECRET}\n".encode())
    assert terminal.end() == 0, terminal.text
    assert "logged in to" in terminal.text
    assert SECRET not in terminal.text
    assert host in json.loads(auth_file.read_text())["auths"]


@pytest.mark.parametrize(("keys", "status"), [(b"\x03", 128 + signal.SIGINT), (b"\x04", 2)], ids=["Ctrl-C", "Ctrl-D"])
@pytest.mark.parametrize("asked_for", ["name", "password"])
def test_who_thinks_better_of_it_gets_a_terminal_that_echoes_and_no_login(
    asked_for: str, keys: bytes, status: int, terminal: Terminal, auth_file: Path
) -> None:
    if asked_for == "password":
        terminal.type(f"{USER}\n".encode())
        terminal.wait_for("Password of")
    terminal.type(keys)
    assert terminal.end() == status, terminal.text
    assert terminal.echoes()
    assert "Traceback" not in terminal.text
    assert not auth_file.exists()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_end_of_a_line_is_no_part_of_a_password(
    end: str, micropod: CommandLine, host: str, auth_file: Path, piped: Callable[[str], None]
) -> None:
    piped(SECRET + end)
    said = micropod("login", "--insecure", host, "-u", USER, "--password-stdin")
    assert said.status == 0, said.err
    assert auth_file.exists()


@pytest.mark.usefixtures("host")
def test_a_second_line_is(micropod: CommandLine, host: str, auth_file: Path, piped: Callable[[str], None]) -> None:
    piped(f"{SECRET}\n\n")
    assert micropod("login", "--insecure", host, "-u", USER, "--password-stdin").status == 4
    assert not auth_file.exists()


@pytest.mark.parametrize(("registry", "status"), [("127.0.0.1:1", 5), ("registry.invalid", 5)])
def test_of_a_registry_that_is_not_reached_nothing_is_stored(
    registry: str, status: int, micropod: CommandLine, auth_file: Path, piped: Callable[[str], None]
) -> None:
    piped(SECRET)
    assert micropod("login", registry, "-u", USER, "--password-stdin").status == status
    assert not auth_file.exists()


@pytest.mark.usefixtures("auth_file")
@pytest.mark.parametrize("where", ["insecure-registries", "registries.conf", "neither"])
def test_what_is_configured_for_the_registry_holds_for_the_login_too(
    where: str, micropod: CommandLine, host: str, piped: Callable[[str], None], tmp_path: Path
) -> None:
    insecure = f'[[registry]]\nlocation = "{host}"\ninsecure = true\n' if where == "registries.conf" else ""
    (tmp_path / "registries.conf").write_text(insecure)
    config = tmp_path / "config.toml"
    listed = f'insecure-registries = ["{host}"]\n' if where == "insecure-registries" else ""
    config.write_text(f'registries-conf = "registries.conf"\n{listed}')
    piped(SECRET)
    said = micropod(f"--config={config}", "login", host, "-u", USER, "--password-stdin")
    assert said.status == (4 if where == "neither" else 0), said.err


def test_nobody_logs_in_to_a_registry_that_is_blocked(
    micropod: CommandLine, scripted: ScriptedRegistry, piped: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "registries.conf").write_text(f'[[registry]]\nlocation = "{scripted.host}"\nblocked = true\n')
    (tmp_path / "config.toml").write_text('registries-conf = "registries.conf"\n')
    piped(SECRET)
    said = micropod(f"--config={tmp_path / 'config.toml'}", "login", scripted.host, "-u", USER, "--password-stdin")
    assert (said.status, scripted.requests) == (4, ())
    assert "blocks" in said.err
