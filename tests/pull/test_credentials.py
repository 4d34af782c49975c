from __future__ import annotations

import base64
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micropod_img.errors import AuthError, MicropodError, UsageError
from micropod_img.pull import credentials
from micropod_img.pull.auth_files import edit_auth_file, keys_for, registry_of_key
from micropod_img.pull.credentials import GIVEN, auth_file_locations, find_credential
from micropod_img.pull.secret import Credential, Secret
from tests.support.auth_files import HUB_KEY, auth, user_of, write
from tests.support.secrecy import SECRET, assert_not_shown

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(credentials, "_RUNTIME_DIRECTORIES", tmp_path / "run")
    return tmp_path


class TestOrderOfPlaces:
    PLACES = (
        ("MICROPOD_AUTH_FILE", "micropod.json"),
        ("REGISTRY_AUTH_FILE", "registry.json"),
        ("XDG_RUNTIME_DIR", "runtime/containers/auth.json"),
        ("XDG_CONFIG_HOME", "configuration/containers/auth.json"),
        ("DOCKER_CONFIG", "docker/config.json"),
    )

    def environment(self, home: Path) -> dict[str, str]:
        return {
            "HOME": str(home),
            "MICROPOD_AUTH_FILE": str(home / "micropod.json"),
            "REGISTRY_AUTH_FILE": str(home / "registry.json"),
            "XDG_RUNTIME_DIR": str(home / "runtime"),
            "XDG_CONFIG_HOME": str(home / "configuration"),
            "DOCKER_CONFIG": str(home / "docker"),
        }

    @pytest.mark.parametrize("first", range(len(PLACES)), ids=[name for name, _ in PLACES])
    def test_the_first_place_that_has_a_credential_decides(self, home: Path, first: int) -> None:
        for number, (name, file) in enumerate(self.PLACES):
            write(home / file, {"auths": {"registry.example.com": auth(name)} if number >= first else {}})
        found = find_credential("registry.example.com", "app", environment=self.environment(home))
        assert found is not None
        name, file = self.PLACES[first]
        assert (found.credential.username, found.source) == (name, f"{home / file} (auths: registry.example.com)")

    def test_what_was_given_for_the_call_goes_before_all_files_which_are_not_even_read(self, home: Path) -> None:
        (home / "micropod.json").write_text("{broken")
        credential = Credential.from_password("given", SECRET)
        found = find_credential("a.example", "app", environment=self.environment(home), given=credential)
        assert found is not None
        assert (found.credential, found.source) == (credential, GIVEN)

    def test_an_auth_file_of_the_call_takes_the_place_of_the_variable(self, home: Path) -> None:
        write(home / "micropod.json", {"auths": {"a.example": auth("variable")}})
        file = write(home / "given.json", {"auths": {"a.example": auth("call")}})
        found = find_credential("a.example", "app", environment=self.environment(home), auth_file=file)
        assert found is not None
        assert found.credential.username == "call"

    @pytest.mark.parametrize("variable", ["MICROPOD_AUTH_FILE", "REGISTRY_AUTH_FILE"])
    def test_a_file_that_a_variable_names_must_exist(self, home: Path, variable: str) -> None:
        missing = home / "missing.json"
        with pytest.raises(AuthError, match=str(missing)) as caught:
            find_credential("a.example", "app", environment={"HOME": str(home), variable: str(missing)})
        assert caught.value.code == "auth-file-missing"

    def test_nothing_anywhere_is_no_credential(self, home: Path) -> None:
        assert find_credential("a.example", "app", environment={"HOME": str(home)}) is None

    def test_without_variables_the_usual_places_are_asked(self, home: Path) -> None:
        places = [location.path for location in auth_file_locations({"HOME": str(home), "XDG_RUNTIME_DIR": ""})]
        assert places == [
            home / "run" / str(os.getuid()) / "auth.json",
            home / ".config/containers/auth.json",
            home / ".docker/config.json",
        ]

    def test_an_empty_file_has_no_entries(self, home: Path) -> None:
        environment = {"HOME": str(home), "MICROPOD_AUTH_FILE": "/dev/null"}
        assert find_credential("a.example", "app", environment=environment) is None

    def test_a_file_that_cannot_be_read_is_an_error(self, home: Path) -> None:
        (home / ".docker/config.json").mkdir(parents=True)
        with pytest.raises(AuthError, match=r"\.docker/config\.json: the auth file cannot be read") as caught:
            find_credential("a.example", "app", environment={"HOME": str(home)})
        assert caught.value.code == "auth-file-unreadable"


class TestKeys:
    @pytest.mark.parametrize(
        ("keys", "host", "repository", "chosen"),
        [
            # most specific path first, as containers-auth.json(5) has it
            (["r.example", "r.example/ns", "r.example/ns/app"], "r.example", "ns/app", "r.example/ns/app"),
            (["r.example", "r.example/ns", "r.example/ns/app"], "r.example", "ns/other", "r.example/ns"),
            (["r.example", "r.example/ns", "r.example/ns/app"], "r.example", "nsx/app", "r.example"),
            (["r.example/ns/app"], "r.example", "ns/app/sub", "r.example/ns/app"),
            (["r.example/ns"], "r.example", "other/app", None),
            (["r.example/ns/app"], "r.example", "ns", None),
            # the host is what it is: port, and nothing like it
            (["r.example:5000"], "r.example:5000", "app", "r.example:5000"),
            (["r.example:5000"], "r.example", "app", None),
            (["r.example"], "r.example:5000", "app", None),
            (["example"], "r.example", "app", None),
            (["[::1]:5000"], "[::1]:5000", "app", "[::1]:5000"),
            # the URLs that keys once were
            (["https://r.example"], "r.example", "app", "https://r.example"),
            (["http://r.example"], "r.example", "app", "http://r.example"),
            (["https://r.example/v1/"], "r.example", "app", "https://r.example/v1/"),
            (["https://r.example/v2/"], "r.example", "app", "https://r.example/v2/"),
            (["r.example/v1/"], "r.example", "app", "r.example/v1/"),
            (["r.example/"], "r.example", "app", "r.example/"),
            (["https://r.example:5000/v1/"], "r.example:5000", "app", "https://r.example:5000/v1/"),
            (["https://r.example/v1/", "r.example"], "r.example", "app", "r.example"),
            (["https://other.example/v1/"], "r.example", "app", None),
            # Docker Hub by any of its names
            ([HUB_KEY], "docker.io", "library/alpine", HUB_KEY),
            (["docker.io"], "docker.io", "library/alpine", "docker.io"),
            (["index.docker.io"], "docker.io", "library/alpine", "index.docker.io"),
            (["registry-1.docker.io"], "docker.io", "library/alpine", "registry-1.docker.io"),
            (["https://registry-1.docker.io/v2/"], "docker.io", "library/alpine", "https://registry-1.docker.io/v2/"),
            ([HUB_KEY], "registry-1.docker.io", "library/alpine", HUB_KEY),
            ([HUB_KEY], "index.docker.io", "library/alpine", HUB_KEY),
            (["docker.io/team", HUB_KEY], "docker.io", "team/app", "docker.io/team"),
            (["index.docker.io/team", HUB_KEY], "docker.io", "team/app", "index.docker.io/team"),
            (["docker.io.example"], "docker.io", "library/alpine", None),
        ],
    )
    def test_the_best_key_is_chosen(
        self, tmp_path: Path, keys: list[str], host: str, repository: str, chosen: str | None
    ) -> None:
        document = {"auths": {key: auth(f"user of {key.replace(':', '_')}") for key in keys}}
        assert user_of(document, tmp_path, host, repository) == (chosen and f"user of {chosen.replace(':', '_')}")

    def test_the_entry_that_docker_leaves_beside_a_helper_is_passed_over(self, tmp_path: Path) -> None:
        document = {"auths": {HUB_KEY: {}, "docker.io": auth("podman")}}
        assert user_of(document, tmp_path, "docker.io") == "podman"

    @given(host=st.from_regex(r"[a-z]{1,8}\.example(:[0-9]{2,4})?", fullmatch=True))
    def test_every_way_to_write_a_host_means_that_host(self, host: str) -> None:
        ways = [
            host,
            f"{host}/",
            *(f"{scheme}{host}{path}" for scheme in ("http://", "https://") for path in ("", "/v1/")),
        ]
        assert [registry_of_key(way) for way in ways] == [host] * len(ways)
        assert keys_for(reversed(ways), host)[0] == host


class TestEntries:
    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            (auth("me"), Credential("me", Secret(SECRET))),
            (auth("me", "with:colon"), Credential("me", Secret("with:colon"))),
            ({"auth": base64.b64encode(b"me:pw\0\0").decode()}, Credential("me", Secret("pw"))),
            ({"auth": base64.b64encode(b"me:pw").decode().rstrip("=")}, Credential("me", Secret("pw"))),
            ({"auth": base64.b64encode(b"me:\xff").decode()}, Credential("me", Secret("\udcff"))),
            ({"username": "me", "password": "pw"}, Credential("me", Secret("pw"))),
            ({**auth("right"), "username": "wrong", "password": "x"}, Credential("right", Secret(SECRET))),
            ({"identitytoken": "it"}, Credential(identity_token=Secret("it"))),
            ({**auth("0000", ""), "identitytoken": "it"}, Credential(identity_token=Secret("it"))),
            ({**auth("me"), "identitytoken": "it"}, Credential("me", Secret(SECRET), Secret("it"))),
            ({"registrytoken": "rt", "email": "me@example.com"}, Credential(registry_token=Secret("rt"))),
            ({}, None),
            (None, None),
            ({"auth": ""}, None),
            (auth("me", ""), None),
            ({"username": "me"}, None),
        ],
    )
    def test_every_kind_of_entry_is_understood(self, home: Path, entry: object, expected: Credential | None) -> None:
        write(home / ".docker/config.json", {"auths": {"r.example": entry}})
        found = find_credential("r.example", "app", environment={"HOME": str(home)})
        assert (found.credential if found else None) == expected

    def test_what_was_read_is_written_as_it_was(self) -> None:
        entry = {"auth": base64.b64encode(b"me:\xff\xfe:x").decode()}
        with tempfile.TemporaryDirectory() as directory:
            write(Path(directory, "config.json"), {"auths": {"r.example": entry}})
            found = find_credential("r.example", "", environment={"DOCKER_CONFIG": directory, "HOME": directory})
        assert found is not None
        assert found.credential.entry() == entry

    @pytest.mark.parametrize(
        "entry",
        [
            "a string",
            ["a list"],
            {"auth": "not base64!"},
            {"auth": "bm9jb2xvbg=="},
            {"auth": base64.b64encode(b":password").decode()},
            {"auth": 17},
            {"identitytoken": {"nested": True}},
            {"username": "\ud800", "password": "x"},
        ],
    )
    def test_a_broken_entry_is_an_error_that_names_file_and_key(self, home: Path, entry: object) -> None:
        file = write(home / ".docker/config.json", {"auths": {"r.example": entry}})
        with pytest.raises(AuthError, match=f"{file}: .* r.example ") as caught:
            find_credential("r.example", "app", environment={"HOME": str(home)})
        assert caught.value.code == "auth-file-invalid"
        assert find_credential("other.example", "app", environment={"HOME": str(home)}) is None

    @pytest.mark.parametrize(
        "content",
        [
            b"{",
            b"[]",
            b'"text"',
            b"null",
            b"\xff\xfe\x00",
            b'{"auths": []}',
            b'{"auths": "x"}',
            b'{"credHelpers": []}',
            b'{"credHelpers": {"r.example": 1}}',
            b'{"credsStore": 1}',
            b'{"x": NaN}',
            b'{"x": 1e999}',
            b'{"x": ' + b"1" * 5000 + b"}",
            b"[" * 100_000,
            b" " * (4 << 20) + b"{}",
        ],
        ids=lambda content: content[:24].decode("latin-1"),
    )
    def test_a_broken_file_is_an_error_that_names_it(self, home: Path, content: bytes) -> None:
        file = home / ".docker/config.json"
        file.parent.mkdir()
        file.write_bytes(content)
        with pytest.raises(AuthError, match=f"{file}: the auth file is broken") as caught:
            find_credential("r.example", "app", environment={"HOME": str(home)})
        assert (caught.value.code, caught.value.exit_status) == ("auth-file-invalid", 4)


class TestSecrecy:
    def test_a_credential_never_shows_itself(self) -> None:
        for credential in (
            Credential.from_password("me", SECRET),
            Credential.from_identity_token(SECRET),
            Credential.from_registry_token(SECRET),
        ):
            shown = [repr(credential), str(credential), f"{credential}", f"{credential!r:>10}", repr([credential])]
            assert not [text for text in shown if SECRET in text]
        assert "'me'" in repr(Credential.from_password("me", SECRET))

    def test_another_programs_words_are_freed_of_it(self) -> None:
        credential = Credential.from_password("me", SECRET)
        said = f"sent {SECRET} as {credential.entry()['auth']}, got 401"
        assert credential.redact(said) == "sent *** as ***, got 401"

    @pytest.mark.parametrize("username", ["", "a:b", "\ud800"])
    def test_a_user_name_that_cannot_be_sent_is_refused(self, username: str) -> None:
        with pytest.raises(UsageError) as caught:
            Credential.from_password(username, SECRET)
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("make", [Credential.from_identity_token, Credential.from_registry_token])
    def test_an_empty_token_is_refused(self, make: type[Credential]) -> None:
        with pytest.raises(UsageError):
            make("")

    def test_an_empty_password_is_refused(self) -> None:
        with pytest.raises(UsageError):
            Credential.from_password("me", "")

    @pytest.mark.parametrize(
        "document",
        [
            {"auths": {"r.example": {"auth": f"{SECRET}!"}}},
            {"auths": {"r.example": {"identitytoken": [SECRET]}}},
            {"auths": [SECRET]},
            {"auths": {"r.example": auth("me")}, "credHelpers": 1},
            f'{{"auths": {{"r.example": {{"auth": "{SECRET}"}}}},}}',
        ],
    )
    def test_the_traceback_of_a_broken_file_with_all_locals_has_no_secret(self, home: Path, document: object) -> None:
        file = write(home / ".docker/config.json", document)
        if isinstance(document, str):
            file.write_text(document)
        with pytest.raises(AuthError) as caught:
            find_credential("r.example", "app", environment={"HOME": str(home)})
        assert_not_shown(caught.value)


_TEXTS = (
    st.sampled_from(["r.example", "r.example/team", "docker.io", HUB_KEY, "test", "", "\ud800", "a\nb"]) | st.text()
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS | st.sampled_from(list(auth("me").values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_ENTRIES = st.dictionaries(
    st.sampled_from(["auth", "identitytoken", "registrytoken", "username", "password", "email"]), _VALUES
)
_FILES = st.fixed_dictionaries(
    {},
    optional={
        "auths": st.dictionaries(_TEXTS, _ENTRIES | _VALUES, max_size=4) | _VALUES,
        "credHelpers": st.dictionaries(_TEXTS, _TEXTS, max_size=3) | _VALUES,
        "credsStore": _VALUES,
        "other": _VALUES,
    },
)


class TestAnyContent:
    def look_up_and_edit(self, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "config.json")
            file.write_bytes(content)
            environment: Mapping[str, str] = {"MICROPOD_AUTH_FILE": str(file), "HOME": directory, "PATH": directory}
            for host, repository in (("r.example", "team/app"), ("docker.io", "library/alpine")):
                try:
                    find_credential(host, repository, environment=environment)
                except MicropodError as error:
                    assert str(file) in error.message  # noqa: PT017 - whether there is an error is not the question
            try:
                edit_auth_file(file, lambda auths: auths.update(new=1))
            except MicropodError as error:
                assert str(file) in error.message  # noqa: PT017
                assert file.read_bytes() == content
            else:
                before = json.loads(content.decode("utf-8-sig").strip(" \t\r\n") or "{}")
                before["auths"] = {**(before.get("auths") or {}), "new": 1}
                after = json.loads(file.read_text())
                assert after == before
                assert list(after) == list(before)

    @settings(max_examples=200, deadline=None)
    @given(document=_FILES)
    def test_no_document_crashes_anything_but_with_an_error_that_names_the_file(self, document: object) -> None:
        self.look_up_and_edit(json.dumps(document).encode())

    @settings(max_examples=100, deadline=None)
    @given(content=st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
    def test_no_bytes_crash_anything_but_with_an_error_that_names_the_file(self, content: bytes) -> None:
        self.look_up_and_edit(content)

    @pytest.mark.parametrize("depth", [50, 200, 400, 900, 5000])
    def test_neither_does_deep_nesting(self, depth: int) -> None:
        self.look_up_and_edit(b'{"deep": ' + b"[" * depth + b"]" * depth + b"}")
