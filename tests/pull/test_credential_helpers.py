"""Credential helpers that are really run: which is asked, what it is told, and that nothing that it says leaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import AuthError
from micropod_img.pull.credential_helpers import CredentialHelper
from micropod_img.pull.credentials import find_credential
from micropod_img.pull.secret import Credential
from tests.support.auth_files import HUB_KEY, auth, user_of, write
from tests.support.credential_helper import make_broken_helper, make_helper, seconds_without_answer
from tests.support.secrecy import SECRET, assert_not_shown

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.service import ImageService


class TestHelpers:
    KEPT = {  # noqa: RUF012 - a constant
        "r.example": ("of the host", SECRET),
        HUB_KEY: ("of the hub", SECRET),
        "docker.io": ("of podman's hub", SECRET),
        "r.example/team": ("of the team", SECRET),
        "token.example": ("<token>", SECRET),
    }

    @pytest.mark.parametrize(
        ("document", "host", "user"),
        [
            ({"credsStore": "test"}, "r.example", "of the host"),
            ({"credsStore": "test"}, "docker.io", "of the hub"),
            ({"credsStore": "test"}, "unknown.example", None),
            ({"credHelpers": {"r.example": "test"}}, "r.example", "of the host"),
            ({"credHelpers": {"r.example": "test"}}, "other.example", None),
            ({"credHelpers": {"https://r.example": "test"}}, "r.example", "of the host"),
            ({"credHelpers": {HUB_KEY: "test"}}, "docker.io", "of the hub"),
            ({"credHelpers": {"docker.io": "test"}}, "docker.io", "of podman's hub"),
            ({"credHelpers": {"index.docker.io": "test"}}, "docker.io", "of the hub"),
            ({"credHelpers": {"r.example/team": "test"}}, "r.example", "of the team"),
            # a helper of its own goes before the one for all, an empty name means the entry
            ({"credsStore": "missing", "credHelpers": {"r.example": "test"}}, "r.example", "of the host"),
            (
                {"credsStore": "missing", "credHelpers": {"r.example": ""}, "auths": {"r.example": auth("file")}},
                "r.example",
                "file",
            ),
            # beside entries of the file
            ({"credsStore": "test", "auths": {"r.example": auth("file")}}, "r.example", "of the host"),
            ({"credsStore": "test", "auths": {"unknown.example": auth("file")}}, "unknown.example", "file"),
            ({"credsStore": "test", "auths": {"r.example/team": auth("file")}}, "r.example", "file"),
            (
                {"credHelpers": {"unknown.example": "test"}, "auths": {"unknown.example": auth("file")}},
                "unknown.example",
                None,
            ),
        ],
    )
    def test_the_right_helper_is_asked(self, tmp_path: Path, document: object, host: str, user: str | None) -> None:
        helper = make_helper(tmp_path / "bin", kept=self.KEPT)
        assert user_of(document, tmp_path / "docker", host, **helper.in_path()) == user

    def test_the_source_names_file_and_helper(self, tmp_path: Path) -> None:
        helper = make_helper(tmp_path / "bin", kept=self.KEPT)
        file = write(tmp_path / ".docker/config.json", {"credHelpers": {"r.example": "test"}})
        found = find_credential("r.example", "app", environment=helper.in_path(HOME=str(tmp_path)))
        assert found is not None
        assert found.source == f"{file} (credHelpers: test)"

    def test_the_user_name_token_means_an_identity_token(self, tmp_path: Path) -> None:
        helper = make_helper(tmp_path / "bin", kept=self.KEPT)
        write(tmp_path / ".docker/config.json", {"credsStore": "test"})
        found = find_credential("token.example", "app", environment=helper.in_path(HOME=str(tmp_path)))
        assert found is not None
        assert found.credential == Credential.from_identity_token(SECRET)

    def test_a_helper_is_told_the_bare_registry_and_runs_in_the_users_environment(self, tmp_path: Path) -> None:
        helper = make_helper(tmp_path / "bin", kept=self.KEPT)
        write(tmp_path / ".docker/config.json", {"credsStore": "test"})
        environment = helper.in_path(HOME=str(tmp_path), AWS_PROFILE="staging")
        find_credential("r.example", "app", environment=environment)
        (call,) = helper.calls
        assert (call.arguments, call.server) == (["get"], "r.example")
        assert {name: call.environment[name] for name in environment} == environment

    @pytest.mark.parametrize(
        ("script", "what"),
        [
            ("echo credentials not found in native keychain; exit 1", None),
            ("echo credentials not found in native keychain >&2; exit 1", None),
            ("echo 'error getting credentials: locked' ; exit 1", "failed with status 1"),
            ("kill -9 $$", "failed with status -9"),
            ("echo not json", "did not answer in JSON"),
            ("echo '[1]'", "did not answer with a JSON object"),
            ("""echo '{"Username": "me"}'""", None),
            ("""echo '{"Username": "me", "Secret": ""}'""", None),
            ("""echo '{"Secret": "s"}'""", "something other than a user name and a secret"),
            ("""echo '{"Username": 1, "Secret": "s"}'""", "something other than a user name and a secret"),
            ("head -c 3000000 /dev/zero", "wrote far more than an answer"),
        ],
    )
    def test_what_a_helper_says_is_understood(self, tmp_path: Path, script: str, what: str | None) -> None:
        helper = make_broken_helper(tmp_path / "bin", script)
        write(tmp_path / ".docker/config.json", {"credsStore": "broken"})
        environment = helper.in_path(HOME=str(tmp_path))
        if what is None:
            assert find_credential("r.example", "app", environment=environment) is None
            return
        with pytest.raises(AuthError, match=what) as caught:
            find_credential("r.example", "app", environment=environment)
        assert "docker-credential-broken" in caught.value.message
        assert str(tmp_path / ".docker/config.json") in caught.value.message
        assert (caught.value.code, caught.value.endpoint) == ("credential-helper", "r.example")

    def test_the_words_of_a_helper_that_fails_are_not_repeated_as_they_may_be_secret(self, tmp_path: Path) -> None:
        made = make_broken_helper(tmp_path / "bin", f"echo me:{SECRET}; echo {SECRET} >&2; exit 1")
        helper = CredentialHelper("broken", "a file", made.in_path())
        with pytest.raises(AuthError) as caught:
            helper.get("r.example")
        assert_not_shown(caught.value)
        assert caught.value.hint is not None
        assert "echo r.example | docker-credential-broken get" in caught.value.hint

    def test_a_helper_that_hangs_is_ended(self, tmp_path: Path) -> None:
        made = make_broken_helper(tmp_path / "bin", "sleep 60")
        helper = CredentialHelper("broken", "a file", made.in_path(), timeout=0.2)
        with pytest.raises(AuthError, match=r"did not answer within 0\.2 s"):
            helper.get("r.example")

    def test_a_helper_has_no_more_time_than_the_whole_call(
        self, tmp_path: Path, service: ImageService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = make_broken_helper(tmp_path / "bin", "sleep 60")
        write(tmp_path / "docker/config.json", {"credsStore": "broken"})
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        monkeypatch.setenv("PATH", made.in_path()["PATH"])
        with pytest.raises(AuthError) as caught:
            service.pull_image("registry.invalid/app", timeout=0.5)
        assert seconds_without_answer(caught.value.message) <= 0.5

    @pytest.mark.parametrize("name", ["../evil", "/bin/sh", "a/b", "a b", "-x", "", "x\0y", "é"])
    def test_a_name_that_is_none_is_never_run(self, tmp_path: Path, name: str) -> None:
        helper = CredentialHelper(name, "a file", {"PATH": str(tmp_path)})
        with pytest.raises(AuthError, match="has no usable name"):
            helper.get("r.example")

    @pytest.mark.parametrize("path", ["", ".", "bin", ":", None])
    def test_a_helper_is_looked_for_in_absolute_directories_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None
    ) -> None:
        for directory in (tmp_path, tmp_path / "bin"):
            make_helper(directory, kept=self.KEPT)
        monkeypatch.chdir(tmp_path)
        helper = CredentialHelper("test", "a file", {} if path is None else {"PATH": path})
        with pytest.raises(AuthError, match="docker-credential-test is not in PATH"):
            helper.get("r.example")

    def test_a_helper_that_cannot_be_started_is_said(self, tmp_path: Path) -> None:
        helper = make_broken_helper(tmp_path / "bin", "")
        helper.path.write_bytes(b"\x7fELF nothing")
        asked = CredentialHelper("broken", "a file", helper.in_path())
        with pytest.raises(AuthError, match=r"docker-credential-broken (cannot be run|failed with status)"):
            asked.get("r.example")


class TestSecrecy:
    @pytest.mark.parametrize(
        "script",
        [
            f"""echo '{{"Username": "me", "Secret": "{SECRET}"}}'; exit 1""",
            f"""echo '{{"Username": 1, "Secret": "{SECRET}"}}'""",
            f"""echo '{{"Username": "me", "Secret": "{SECRET}",}}'""",
        ],
    )
    def test_the_traceback_of_a_failed_get_with_all_locals_has_no_secret(self, tmp_path: Path, script: str) -> None:
        helper = CredentialHelper("broken", "a file", make_broken_helper(tmp_path / "bin", script).in_path())
        with pytest.raises(AuthError) as caught:
            helper.get("r.example")
        assert_not_shown(caught.value)

    @pytest.mark.parametrize("script", ["cat; exit 1", "cat >&2; exit 1", "sleep 60", "head -c 3000000 /dev/zero"])
    def test_the_traceback_of_a_failed_store_with_all_locals_has_no_secret(self, tmp_path: Path, script: str) -> None:
        made = make_broken_helper(tmp_path / "bin", script)
        helper = CredentialHelper("broken", "a file", made.in_path(), timeout=0.3)
        with pytest.raises(AuthError) as caught:
            helper.store("r.example", Credential.from_password("me", SECRET))
        assert_not_shown(caught.value)

    def test_no_process_has_it_in_its_arguments_or_environment_while_a_helper_runs(self, tmp_path: Path) -> None:
        helper = make_helper(tmp_path / "bin", kept={"r.example": ("me", SECRET)})
        asked = CredentialHelper("test", "a file", helper.in_path())
        assert asked.get("r.example") == Credential.from_password("me", SECRET)
        asked.store("s.example", Credential.from_password("me", SECRET))
        asked.erase("r.example")
        assert [call.secrets_seen for call in helper.calls] == [[], [], []]

    def test_the_helper_of_these_tests_would_see_it(self, tmp_path: Path) -> None:
        helper = make_helper(tmp_path / "bin", kept={"r.example": ("me", SECRET)})
        CredentialHelper("test", "a file", helper.in_path(LEAK=SECRET)).get("r.example")
        assert any("environ" in seen for seen in helper.calls[0].secrets_seen)
