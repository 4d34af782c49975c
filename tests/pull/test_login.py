from __future__ import annotations

import base64
import json
import multiprocessing
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import AuthError, DiskError, NotFoundError, UsageError
from micropod_img.pull import credentials
from micropod_img.pull.credentials import find_credential
from micropod_img.pull.login import LoginReport, login, login_file, logout
from micropod_img.pull.login_check import LoginCheck, LoginTarget
from micropod_img.pull.secret import Credential
from tests.support.credential_helper import make_broken_helper, make_helper
from tests.support.interrupts import interrupt_first_call
from tests.support.processes import require_program, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.process import BaseProcess

SECRET = "correct-horse-battery-staple"
CREDENTIAL = Credential.from_password("me", SECRET)
ENTRY = {"auth": base64.b64encode(f"me:{SECRET}".encode()).decode()}
HUB_KEY = "https://index.docker.io/v1/"


def accept(_target: LoginTarget, _credential: Credential) -> LoginCheck:
    return LoginCheck.ACCEPTED


def log_in(
    home: Path,
    registry: str = "r.example",
    environment: Mapping[str, str] | None = None,
    *,
    credential: Credential = CREDENTIAL,
) -> LoginReport:
    return login(registry, credential, environment={"HOME": str(home), **(environment or {})}, check=accept)


def log_in_many(home: Path, numbers: range) -> None:
    """Of a process of its own."""
    for number in numbers:
        log_in(home, f"r{number}.example")


def names(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(credentials, "_RUNTIME_DIRECTORIES", tmp_path / "run")
    return tmp_path


@pytest.fixture
def docker(home: Path) -> Path:
    """Docker's configuration, not yet written."""
    (home / ".docker").mkdir()
    return home / ".docker/config.json"


class TestWhereItIsStored:
    def test_dockers_file_is_used_when_there_is_no_session(self, home: Path) -> None:
        report = log_in(home)
        assert report.stored_in == str(home / ".docker/config.json")
        assert json.loads((home / ".docker/config.json").read_text()) == {"auths": {"r.example": ENTRY}}

    @pytest.mark.parametrize(
        ("variables", "file"),
        [
            ({"DOCKER_CONFIG": "{home}/d"}, "d/config.json"),
            ({"XDG_RUNTIME_DIR": "{home}", "DOCKER_CONFIG": "{home}/d"}, "containers/auth.json"),
            ({"REGISTRY_AUTH_FILE": "{home}/r.json", "XDG_RUNTIME_DIR": "{home}"}, "r.json"),
            ({"MICROPOD_AUTH_FILE": "{home}/m.json", "REGISTRY_AUTH_FILE": "{home}/r.json"}, "m.json"),
            ({"MICROPOD_AUTH_FILE": "", "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": ""}, ".docker/config.json"),
        ],
    )
    def test_it_is_the_first_that_is_read(self, home: Path, variables: dict[str, str], file: str) -> None:
        environment = {name: value.format(home=home) for name, value in variables.items()}
        report = log_in(home, environment=environment)
        assert report.stored_in == str(home / file)
        assert json.loads((home / file).read_text())["auths"] == {"r.example": ENTRY}
        assert login_file({"HOME": str(home), **environment}) == home / file

    def test_a_file_of_the_call_takes_the_place_of_the_variable(self, home: Path) -> None:
        environment = {"HOME": str(home), "MICROPOD_AUTH_FILE": str(home / "m.json")}
        given = home / "given.json"
        report = login("r.example", CREDENTIAL, environment=environment, check=accept, auth_file=given)
        assert report.stored_in == str(given)
        assert not (home / "m.json").exists()

    def test_a_session_directory_that_does_not_exist_is_not_made(self, home: Path) -> None:
        with pytest.raises(UsageError, match="XDG_RUNTIME_DIR"):
            log_in(home, environment={"XDG_RUNTIME_DIR": str(home / "missing")})
        assert not (home / "missing").exists()

    @pytest.mark.parametrize(
        ("registry", "file", "key"),
        [
            ("r.example:5000", "config.json", "r.example:5000"),
            ("https://r.example/v1/", "config.json", "r.example"),
            ("r.example/team", "config.json", "r.example/team"),
            ("docker.io", "config.json", HUB_KEY),
            (HUB_KEY, "config.json", HUB_KEY),
            ("registry-1.docker.io", "config.json", HUB_KEY),
            ("docker.io", "auth.json", "docker.io"),
            ("docker.io/team", "config.json", "docker.io/team"),
        ],
    )
    def test_the_key_is_the_one_that_other_tools_look_for(self, home: Path, registry: str, file: str, key: str) -> None:
        log_in(home, registry, {"MICROPOD_AUTH_FILE": str(home / file)})
        assert json.loads((home / file).read_text()) == {"auths": {key: ENTRY}}

    @pytest.mark.parametrize("registry", ["r.example", "docker.io", "localhost:5000", "r.example:5000/team/app"])
    def test_it_is_found_again(self, home: Path, registry: str) -> None:
        log_in(home, registry)
        host, _, repository = registry.partition("/")
        found = find_credential(host, repository or "library/alpine", environment={"HOME": str(home)})
        assert found is not None
        assert found.credential == CREDENTIAL

    def test_an_identity_token_is_found_again(self, home: Path) -> None:
        token = Credential.from_identity_token(SECRET)
        report = log_in(home, credential=token)
        found = find_credential("r.example", "", environment={"HOME": str(home)})
        assert found is not None
        assert found.credential == token
        assert report.shadowed_by is None

    def test_crane_finds_it(self, crane: Path, home: Path) -> None:
        for registry in ("docker.io", "r.example:5000"):
            log_in(home, registry)
            shown = run("env", "-i", f"HOME={home}", crane, "auth", "get", registry)
            assert json.loads(shown.stdout) == {"Username": "me", "Secret": SECRET}

    @pytest.mark.parametrize("file", ["config.json", "auth.json"])
    def test_skopeo_finds_it(self, home: Path, file: str) -> None:
        program = require_program("skopeo", package="skopeo")
        for registry in ("docker.io", "r.example:5000"):
            log_in(home, registry, {"MICROPOD_AUTH_FILE": str(home / file)})
            shown = run(program, "login", "--get-login", "--authfile", home / file, registry)
            assert shown.stdout == "me\n"

    def test_what_skopeo_stored_is_found_and_what_was_stored_skopeo_removes(self, home: Path) -> None:
        program = require_program("skopeo", package="skopeo")
        file = home / "auth.json"
        log_in(home, "docker.io", {"MICROPOD_AUTH_FILE": str(file)})
        run(program, "logout", "--authfile", file, "docker.io").check_returncode()
        assert (
            find_credential("docker.io", "", environment={"HOME": str(home), "MICROPOD_AUTH_FILE": str(file)}) is None
        )

    def test_another_tools_credential_that_goes_before_it_is_named(self, home: Path) -> None:
        other = home / ".config/containers/auth.json"
        other.parent.mkdir(parents=True)
        other.write_text(json.dumps({"auths": {"r.example": {"auth": base64.b64encode(b"old:pw").decode()}}}))
        assert log_in(home).shadowed_by == f"{other} (auths: r.example)"
        other.write_text("{broken")
        assert log_in(home).shadowed_by is None


class TestHowItIsStored:
    def test_the_file_is_its_owners_alone_whatever_the_umask_and_however_it_was(self, home: Path, docker: Path) -> None:
        before = os.umask(0)
        try:
            log_in(home)
        finally:
            os.umask(before)
        assert stat.S_IMODE(docker.stat().st_mode) == 0o600
        docker.chmod(0o644)
        log_in(home, "other.example")
        assert stat.S_IMODE(docker.stat().st_mode) == 0o600

    def test_the_directory_is_made_for_its_owner_alone(self, home: Path) -> None:
        log_in(home)
        assert stat.S_IMODE((home / ".docker").stat().st_mode) == 0o700

    def test_what_else_is_in_the_file_stays_in_its_order(self, home: Path, docker: Path) -> None:
        document = {
            "HttpHeaders": {"X": "y"},
            "auths": {
                "z.example": {"auth": "eDp5", "unknown": 1.5},
                "r.example": {"email": "me@example.com", "auth": "old", "identitytoken": "old"},
                "a.example": {},
            },
            "psFormat": "ünï",
            "big": 123456789012345678901234567890,
        }
        docker.write_text(json.dumps(document))
        log_in(home)
        log_in(home, "new.example")
        written = docker.read_text()
        auths: dict[str, object] = {
            "z.example": {"auth": "eDp5", "unknown": 1.5},
            "r.example": {"email": "me@example.com", **ENTRY},
            "a.example": {},
            "new.example": ENTRY,
        }
        assert written == json.dumps({**document, "auths": auths}, indent="\t") + "\n"

    def test_one_entry_is_left_of_several_for_the_same_registry(self, home: Path, docker: Path) -> None:
        docker.write_text(
            json.dumps({"auths": {"docker.io": {"auth": "eDp5"}, "a.example": {}, HUB_KEY: {"email": "e"}}})
        )
        log_in(home, "docker.io")
        assert json.loads(docker.read_text()) == {"auths": {"docker.io": ENTRY, "a.example": {}}}

    def test_a_link_stays_a_link(self, home: Path, docker: Path) -> None:
        target = home / "dotfiles" / "docker.json"
        docker.symlink_to(target)
        log_in(home)
        log_in(home, "other.example")
        assert docker.is_symlink()
        assert list(json.loads(target.read_text())["auths"]) == ["r.example", "other.example"]
        assert names(target.parent) == ["docker.json"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_root_leaves_a_users_file_to_that_user(self, home: Path, docker: Path) -> None:
        docker.write_text("{}")
        os.chown(docker, 12345, 12346)
        log_in(home)
        assert (docker.stat().st_uid, docker.stat().st_gid) == (12345, 12346)

    def test_what_a_killed_login_left_is_no_obstacle_and_goes(self, home: Path, docker: Path) -> None:
        (docker.parent / ".config.json.new").write_text("half")
        (docker.parent / ".config.json.lock").write_text("a login, process 1")
        log_in(home)
        assert names(docker.parent) == ["config.json"]

    def test_an_interrupted_login_leaves_no_credential(
        self, home: Path, docker: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt_first_call(monkeypatch, Path, "rename")
        with pytest.raises(KeyboardInterrupt):
            log_in(home)
        assert names(docker.parent) == []

    def test_a_broken_file_is_left_as_it_is_and_nobody_is_asked(self, home: Path, docker: Path) -> None:
        docker.write_text('{"auths": ')
        with pytest.raises(AuthError, match=str(docker)):
            login("r.example", CREDENTIAL, environment={"HOME": str(home)}, check=_never)
        assert docker.read_text() == '{"auths": '

    def test_a_place_that_cannot_be_written_is_said(self, home: Path) -> None:
        (home / "file").write_text("")
        with pytest.raises(DiskError, match="credentials cannot be written there") as caught:
            log_in(home, environment={"MICROPOD_AUTH_FILE": str(home / "file" / "auth.json")})
        assert str(home / "file/auth.json") in caught.value.message
        assert SECRET not in repr(caught.value.__dict__)

    def test_nothing_is_stored_when_the_registry_refuses(self, home: Path) -> None:
        def refuse(_target: LoginTarget, _credential: Credential) -> LoginCheck:
            raise AuthError("no")

        with pytest.raises(AuthError, match="no"):
            login("r.example", CREDENTIAL, environment={"HOME": str(home)}, check=refuse)
        assert not (home / ".docker").exists()

    def test_logins_at_the_same_time_lose_nothing(self, home: Path, docker: Path) -> None:
        processes = [
            multiprocessing.get_context("spawn").Process(target=log_in_many, args=(home, range(start, start + 10)))
            for start in (0, 10)
        ]
        threads = [threading.Thread(target=log_in, args=(home, f"r{number}.example")) for number in range(20, 30)]
        everybody: list[BaseProcess | threading.Thread] = [*processes, *threads]
        for each in everybody:
            each.start()
        for each in everybody:
            each.join()
        assert set(json.loads(docker.read_text())["auths"]) == {f"r{number}.example" for number in range(30)}
        assert names(docker.parent) == ["config.json"]

    def test_a_reader_finds_a_whole_file_at_any_time(self, home: Path, docker: Path) -> None:
        docker.write_text(json.dumps({"auths": {"other.example": ENTRY}, "padding": "x" * 100_000}))
        done = threading.Event()

        def write() -> None:
            for number in range(20):
                log_in(home, f"r{number}.example")
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not done.is_set():
            assert find_credential("other.example", "", environment={"HOME": str(home)}) is not None
        writer.join()


class TestHelpers:
    @pytest.mark.parametrize(
        ("configuration", "registry", "server"),
        [
            ({"credsStore": "test"}, "r.example", "r.example"),
            ({"credsStore": "test"}, "docker.io", HUB_KEY),
            ({"credHelpers": {"r.example": "test"}}, "r.example", "r.example"),
            ({"credHelpers": {"docker.io": "test"}}, "docker.io", "docker.io"),
            ({"credHelpers": {HUB_KEY: "test"}}, "docker.io", HUB_KEY),
            ({"credHelpers": {"r.example/team": "test"}}, "r.example/team", "r.example/team"),
        ],
    )
    def test_a_helper_keeps_the_secret_and_the_file_does_not(
        self, home: Path, docker: Path, configuration: dict[str, object], registry: str, server: str
    ) -> None:
        helper = make_helper(home / "bin")
        docker.write_text(json.dumps({**configuration, "auths": {registry: {**ENTRY, "email": "e"}}}))
        report = log_in(home, registry, helper.in_path())
        assert helper.kept == {server: ["me", SECRET]}
        assert json.loads(docker.read_text()) == {**configuration, "auths": {registry: {"email": "e"}}}
        assert report.stored_in == f"{docker} ({next(iter(configuration))}: test)"
        assert report.shadowed_by is None

        host, _, repository = registry.partition("/")
        found = find_credential(host, repository, environment={"HOME": str(home), **helper.in_path()})
        assert found is not None
        assert found.credential == CREDENTIAL

        farewell = logout(registry, environment={"HOME": str(home), **helper.in_path()})
        assert farewell.removed_from == (report.stored_in,)
        assert helper.kept == {}
        assert json.loads(docker.read_text()) == {**configuration, "auths": {}}

    def test_an_identity_token_is_kept_as_docker_does(self, home: Path, docker: Path) -> None:
        helper = make_helper(home / "bin")
        docker.write_text('{"credsStore": "test"}')
        log_in(home, environment=helper.in_path(), credential=Credential.from_identity_token(SECRET))
        assert helper.kept == {"r.example": ["<token>", SECRET]}
        assert json.loads(docker.read_text()) == {"credsStore": "test", "auths": {"r.example": {}}}

    def test_a_namespace_is_kept_in_the_file_as_the_store_knows_none(self, home: Path, docker: Path) -> None:
        docker.write_text('{"credsStore": "missing"}')
        report = log_in(home, "r.example/team")
        assert report.stored_in == str(docker)
        assert json.loads(docker.read_text())["auths"] == {"r.example/team": ENTRY}

    def test_a_helper_that_fails_leaves_the_file_as_it_was(self, home: Path, docker: Path) -> None:
        helper = make_broken_helper(home / "bin", "cat; echo locked; exit 1")
        docker.write_text('{"credsStore": "broken"}')
        with pytest.raises(AuthError, match=r"failed with status 1 \(store r\.example\)") as caught:
            log_in(home, environment=helper.in_path())
        assert docker.read_text() == '{"credsStore": "broken"}'
        assert SECRET not in repr(vars(caught.value))


class TestLogout:
    def test_the_entry_goes_and_the_others_stay(self, home: Path, docker: Path) -> None:
        docker.write_text(json.dumps({"auths": {"a.example": ENTRY, "r.example": ENTRY}, "psFormat": "x"}))
        report = logout("r.example", environment={"HOME": str(home)})
        assert (str(report.target), report.removed_from, report.remaining) == ("r.example", (str(docker),), None)
        assert json.loads(docker.read_text()) == {"auths": {"a.example": ENTRY}, "psFormat": "x"}

    def test_every_entry_of_the_registry_goes_but_not_those_of_its_namespaces(self, home: Path, docker: Path) -> None:
        docker.write_text(json.dumps({"auths": {HUB_KEY: ENTRY, "docker.io": ENTRY, "docker.io/team": ENTRY}}))
        report = logout("index.docker.io", environment={"HOME": str(home)})
        assert report.removed_from == (str(docker),)
        assert json.loads(docker.read_text()) == {"auths": {"docker.io/team": ENTRY}}

    def test_a_namespace_is_logged_out_from_alone(self, home: Path, docker: Path) -> None:
        docker.write_text(json.dumps({"auths": {"r.example": ENTRY, "r.example/team": ENTRY}}))
        report = logout("r.example/team", environment={"HOME": str(home)})
        assert json.loads(docker.read_text()) == {"auths": {"r.example": ENTRY}}
        assert report.remaining == f"{docker} (auths: r.example)"

    @pytest.mark.parametrize(
        "content", [None, "{}", '{"auths": {"r.example": {}}}', '{"auths": {"other.example": {}}}']
    )
    def test_who_was_not_logged_in_is_told_so(self, home: Path, docker: Path, content: str | None) -> None:
        if content is not None:
            docker.write_text(content)
        with pytest.raises(NotFoundError, match=r"there is no login to r\.example in") as caught:
            logout("r.example", environment={"HOME": str(home)})
        assert (caught.value.code, caught.value.exit_status, caught.value.hint) == ("not-logged-in", 3, None)

    def test_who_is_logged_in_elsewhere_is_told_where(self, home: Path, docker: Path) -> None:
        docker.write_text(json.dumps({"auths": {"r.example": ENTRY}}))
        with pytest.raises(NotFoundError) as caught:
            logout("r.example", environment={"HOME": str(home), "XDG_RUNTIME_DIR": str(home)})
        assert f"{docker} (auths: r.example)" in str(caught.value.hint)
        docker.write_text(json.dumps({"auths": {"r.example/team": ENTRY}}))
        with pytest.raises(NotFoundError) as caught:
            logout("r.example", environment={"HOME": str(home)})
        assert caught.value.hint == "there is one for r.example/team"

    def test_a_broken_entry_can_be_removed(self, home: Path, docker: Path) -> None:
        docker.write_text('{"auths": {"r.example": {"auth": "broken!"}}}')
        assert logout("r.example", environment={"HOME": str(home)}).removed_from == (str(docker),)
        assert json.loads(docker.read_text()) == {"auths": {}}

    def test_what_another_tool_still_has_is_named(self, home: Path, docker: Path) -> None:
        docker.write_text(json.dumps({"auths": {"r.example": ENTRY}}))
        log_in(home, environment={"XDG_RUNTIME_DIR": str(home)})
        report = logout("r.example", environment={"HOME": str(home), "XDG_RUNTIME_DIR": str(home)})
        assert report.removed_from == (str(home / "containers/auth.json"),)
        assert report.remaining == f"{docker} (auths: r.example)"


class TestTarget:
    @pytest.mark.parametrize(
        ("text", "host", "namespace"),
        [
            ("r.example", "r.example", ""),
            ("r.example/", "r.example", ""),
            ("r.example:5000", "r.example:5000", ""),
            ("localhost", "localhost", ""),
            ("[::1]:5000", "[::1]:5000", ""),
            ("R.Example", "R.Example", ""),
            ("https://r.example", "r.example", ""),
            ("http://r.example:5000/v2/", "r.example:5000", ""),
            ("docker.io", "docker.io", ""),
            ("index.docker.io", "docker.io", ""),
            ("registry-1.docker.io", "docker.io", ""),
            (HUB_KEY, "docker.io", ""),
            ("r.example/team", "r.example", "team"),
            ("r.example/team/app", "r.example", "team/app"),
            ("docker.io/team", "docker.io", "team"),
        ],
    )
    def test_registries_are_understood_as_users_write_them(self, text: str, host: str, namespace: str) -> None:
        assert LoginTarget.parse(text) == LoginTarget(host, namespace)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "/",
            "registry",
            "r.example/app:1",
            "r.example/Team",
            "r example",
            "r.example/a//b",
            "ftp://r.example",
            "-x.y",
        ],
    )
    def test_what_is_no_registry_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError):
            LoginTarget.parse(text)

    def test_a_password_in_a_url_is_not_repeated(self) -> None:
        with pytest.raises(UsageError) as caught:
            LoginTarget.parse(f"https://me:{SECRET}@r.example/v2/")
        assert SECRET not in str(caught.value)


def _never(_target: LoginTarget, _credential: Credential) -> LoginCheck:
    pytest.fail("the registry was asked")
