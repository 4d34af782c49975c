from __future__ import annotations

import base64
import ipaddress
import json
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img import run
from micropod_img.pull.crane_credentials import (
    https_only_name,
    may_fall_back_to_plain_http,
    may_receive_credentials,
    private_docker_config,
    private_environment,
)
from micropod_img.pull.secret import Credential, Secret
from tests.support.registries import make_certificates, make_credentials, start_distribution
from tests.support.scripted import RecordedRequest, Response, ScriptedRegistry, oci_error
from tests.support.token_server import TokenServer

SECRET = "correct-horse-battery-staple"
CREDENTIAL = Credential.from_password("me", SECRET)
HUB_KEY = "https://index.docker.io/v1/"

HTTPS_ONLY = [
    "registry.example.com",
    "registry.example.com:80",
    "docker.io",
    "localhost",
    "LOCALHOST:5000",
    "mylocalhost:5000",
    "localhost.example.com:5000",
    "127.0.0.2:5000",
    "127.0.0.1.example.com",
    "registry.local:5000",
    "11.0.0.1:5000",
    "172.15.255.255",
    "172.32.0.1",
    "192.169.0.1",
    "169.254.1.1:5000",
    "100.64.0.1:5000",
    "[fd00::1]:5000",
    "[::ffff:10.0.0.1]:5000",
    "10.0.0.256",
    "010.0.0.1",
    "10.0.0",
]
FALLS_BACK = {
    "localhost:5000": "LOCALHOST:5000",
    "registry.localhost": "registry.LOCALHOST",
    "a.b.localhost:5000": "a.b.LOCALHOST:5000",
    "127.0.0.1": "[::ffff:7f00:1]",
    "127.0.0.1:5000": "[::ffff:7f00:1]:5000",
    "[::1]": "[0:0:0:0:0:0:0:1]",
    "[::1]:5000": "[0:0:0:0:0:0:0:1]:5000",
    "10.0.0.1": "[::ffff:a00:1]",
    "10.255.255.255:443": "[::ffff:aff:ffff]:443",
    "172.16.0.1:5000": "[::ffff:ac10:1]:5000",
    "172.31.255.255": "[::ffff:ac1f:ffff]",
    "192.168.1.10:5000": "[::ffff:c0a8:10a]:5000",
}


def crane_with(
    crane: Path, directory: Path, *words: str, host: str, credential: Credential | None, **environment: str
) -> run.Completed:
    """Run crane as the adapter does, over an environment full of other people's credentials."""
    directory.mkdir(mode=0o700)
    private_docker_config(directory, host, credential)
    return run.run([str(crane), *words], env={**environment, **private_environment(directory)}, timeout=30)


def asks_for_basic(request: RecordedRequest, response: Response) -> Response:
    """A fault: everybody is let in who shows anything."""
    if "authorization" in request.headers:
        return response
    return oci_error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="tests"'})


class TestPrivateConfiguration:
    def test_it_is_readable_by_nobody_else_and_holds_one_credential(self, tmp_path: Path) -> None:
        private_docker_config(tmp_path, "registry.example.com", CREDENTIAL)
        file = tmp_path / "config.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        auth = base64.b64encode(f"me:{SECRET}".encode()).decode()
        assert json.loads(file.read_text()) == {"auths": {"registry.example.com": {"auth": auth}}}

    def test_without_a_credential_it_is_empty(self, tmp_path: Path) -> None:
        private_docker_config(tmp_path, "registry.example.com", None)
        assert json.loads((tmp_path / "config.json").read_text()) == {}

    def test_it_replaces_nothing_and_follows_no_link(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileExistsError):
            private_docker_config(tmp_path, "registry.example.com", CREDENTIAL)
        assert not (tmp_path / "elsewhere").exists()

    @pytest.mark.parametrize(
        "host",
        [
            "registry.example.com",
            "registry.example.com:5000",
            "localhost:5000",
            "[::1]:5000",
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
            "Registry.Example.com",
            *FALLS_BACK.values(),
        ],
    )
    @pytest.mark.parametrize(
        ("credential", "shown"),
        [
            (CREDENTIAL, {"Username": "me", "Secret": SECRET}),
            (Credential.from_password("me", "a:b=ü\n"), {"Username": "me", "Secret": "a:b=ü\n"}),
            (Credential.from_identity_token(SECRET), {"Username": "<token>", "Secret": SECRET}),
        ],
        ids=["password", "odd password", "identity token"],
    )
    def test_crane_finds_it(
        self, crane: Path, tmp_path: Path, host: str, credential: Credential, shown: object
    ) -> None:
        completed = crane_with(crane, tmp_path / "c", "auth", "get", host, host=host, credential=credential)
        assert json.loads(completed.stdout) == shown

    @pytest.mark.parametrize("asked", ["other.example.com", "registry.example.com:5000", "docker.io"])
    def test_crane_finds_it_for_no_other_registry(self, crane: Path, tmp_path: Path, asked: str) -> None:
        completed = crane_with(
            crane, tmp_path / "c", "auth", "get", asked, host="registry.example.com", credential=CREDENTIAL
        )
        assert (completed.status, completed.stdout) == (1, b"credentials not found in native keychain\n")

    @pytest.mark.parametrize("merged", [True, False])
    def test_crane_finds_nothing_else_wherever_the_user_keeps_credentials(
        self, crane: Path, tmp_path: Path, *, merged: bool
    ) -> None:
        entry = {"auths": {"registry.example.com": Credential.from_password("user", SECRET).entry()}}
        places = {
            "HOME": ".docker/config.json",
            "DOCKER_CONFIG": "config.json",
            "XDG_RUNTIME_DIR": "containers/auth.json",
            "XDG_CONFIG_HOME": "containers/auth.json",
        }
        users = {name: str(tmp_path / name.lower()) for name in places}
        for name, place in places.items():
            file = tmp_path / name.lower() / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(entry))
        users |= {"REGISTRY_AUTH_FILE": str(file), "DOCKER_AUTH_CONFIG": json.dumps(entry)}
        words = ("auth", "get", "registry.example.com")
        found = run.run([str(crane), *words], env=users)
        assert json.loads(found.stdout)["Username"] == "user"
        environment = users if merged else {}
        completed = crane_with(crane, tmp_path / "c", *words, host="-", credential=None, **environment)
        assert (completed.status, completed.stdout) == (1, b"credentials not found in native keychain\n")

    @pytest.mark.parametrize(
        ("credential", "shown"),
        [
            (CREDENTIAL, "GET Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()),
            (Credential.from_identity_token(SECRET), "POST refresh"),
            (Credential("me", Secret("x"), Secret(SECRET)), "POST refresh"),
        ],
        ids=["password", "identity token", "both"],
    )
    def test_crane_shows_it_to_a_token_server(
        self, crane: Path, tmp_path: Path, scripted: ScriptedRegistry, credential: Credential, shown: str
    ) -> None:
        server = TokenServer(scripted, users={"me": SECRET}, refresh_tokens={SECRET}, readable={"team/app"})
        scripted.faults = (server,)
        completed = crane_with(
            crane, tmp_path / "c", "manifest", f"{scripted.host}/team/app:1", host=scripted.host, credential=credential
        )
        assert "MANIFEST_UNKNOWN" in completed.stderr
        asked = [each for each in scripted.requests if each.path.startswith("/token")]
        assert [each.method for each in asked] == [shown.partition(" ")[0]]
        if shown.startswith("GET"):
            assert asked[0].headers["authorization"] == shown.partition(" ")[2]
        else:
            assert f"refresh_token={SECRET}".encode() in asked[0].body

    def test_crane_sends_a_registry_token_as_it_is(
        self, crane: Path, tmp_path: Path, scripted: ScriptedRegistry
    ) -> None:
        scripted.faults = (TokenServer(scripted),)
        credential = Credential.from_registry_token(SECRET)
        crane_with(
            crane, tmp_path / "c", "manifest", f"{scripted.host}/team/app:1", host=scripted.host, credential=credential
        )
        assert scripted.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
        assert scripted.count("^/token", method=None) == 0

    def test_no_process_has_it_in_its_arguments_or_environment_while_crane_runs(
        self, crane: Path, tmp_path: Path, scripted: ScriptedRegistry
    ) -> None:
        encoded = CREDENTIAL.entry()["auth"]
        seen: list[str] = []
        cranes: list[str] = []

        def look_around(request: RecordedRequest, response: Response) -> Response:
            for process in _processes():
                cranes.extend([process.name] if b"crane" in _content(process, "cmdline") else [])
                for what in ("cmdline", "environ"):
                    content = _content(process, what)
                    seen.extend(
                        [f"{process} {what}"] if SECRET.encode() in content or encoded.encode() in content else []
                    )
            return asks_for_basic(request, response)

        scripted.faults = (look_around,)
        completed = crane_with(
            crane, tmp_path / "c", "manifest", f"{scripted.host}/app:1", host=scripted.host, credential=CREDENTIAL
        )
        assert any("authorization" in request.headers for request in scripted.requests)
        assert cranes
        assert not seen
        assert SECRET not in completed.stderr
        assert encoded not in completed.stderr


class TestPlainHttp:
    @pytest.mark.parametrize("host", HTTPS_ONLY)
    def test_a_host_that_crane_asks_over_https_only_may_receive_credentials(self, host: str) -> None:
        assert not may_fall_back_to_plain_http(host)
        assert may_receive_credentials(host, insecure=False)
        assert https_only_name(host) == host

    @pytest.mark.parametrize("host", FALLS_BACK)
    def test_a_host_that_crane_may_ask_over_plain_http_receives_them_only_with_insecure(self, host: str) -> None:
        assert may_fall_back_to_plain_http(host)
        assert not may_receive_credentials(host, insecure=False)
        assert may_receive_credentials(host, insecure=True)

    @pytest.mark.parametrize(("host", "name"), FALLS_BACK.items())
    def test_but_it_has_a_name_under_which_crane_does_not(self, host: str, name: str) -> None:
        assert https_only_name(host) == name
        assert may_receive_credentials(name, insecure=False)

    @given(number=st.integers(0, (1 << 32) - 1), port=st.sampled_from(["", ":5000"]))
    def test_the_other_name_of_an_address_is_the_same_address(self, number: int, port: str) -> None:
        host = str(ipaddress.IPv4Address(number))
        name = https_only_name(host + port)
        assert may_receive_credentials(name, insecure=False)
        if name != host + port:
            mapped = ipaddress.IPv6Address(name.removesuffix(port).strip("[]"))
            assert mapped.ipv4_mapped == ipaddress.IPv4Address(number)

    @given(host=st.text(max_size=30) | st.from_regex(r"(localhost|127.0.0.1|\[::1\]|10.0.0.1)(:[0-9]*)?"))
    def test_no_name_has_another_that_may_fall_back(self, host: str) -> None:
        assert not may_fall_back_to_plain_http(https_only_name(host))

    @pytest.mark.parametrize("host", [*HTTPS_ONLY, *FALLS_BACK, *FALLS_BACK.values()])
    def test_crane_agrees(self, crane: Path, tmp_path: Path, host: str) -> None:
        # A proxy that nobody listens on answers for all but loopback, and crane's log says which schemes it tries.
        proxy = {"HTTPS_PROXY": "http://127.0.0.1:0", "HTTP_PROXY": "http://127.0.0.1:0"}
        completed = crane_with(
            crane, tmp_path / "c", "manifest", "-v", f"{host}/no/app:1", host=host, credential=None, **proxy
        )
        schemes = set(re.findall(r"--> GET (https?)://", completed.stderr))
        assert schemes == ({"http", "https"} if may_fall_back_to_plain_http(host) else {"https"})

    def test_crane_sends_a_password_over_plain_http_to_loopback_without_being_asked(
        self, crane: Path, tmp_path: Path, scripted: ScriptedRegistry
    ) -> None:
        scripted.faults = (asks_for_basic,)
        crane_with(crane, tmp_path / "c", "ls", f"{scripted.host}/app", host=scripted.host, credential=CREDENTIAL)
        assert any("authorization" in request.headers for request in scripted.requests)

    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
    def test_but_nothing_under_the_other_name(
        self, crane: Path, tmp_path: Path, scripted: ScriptedRegistry, name: str
    ) -> None:
        scripted.faults = (asks_for_basic,)
        host = https_only_name(scripted.host.replace("127.0.0.1", name))
        completed = crane_with(crane, tmp_path / "c", "ls", f"{host}/app", host=host, credential=CREDENTIAL)
        assert "first record does not look like a TLS handshake" in completed.stderr
        assert not scripted.requests

    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
    def test_under_which_a_registry_with_tls_is_reached_and_verified(
        self, crane: Path, tmp_path: Path, name: str
    ) -> None:
        user = make_credentials(tmp_path)
        tls = make_certificates(tmp_path)
        credential = Credential.from_password(user.user, user.password)
        with start_distribution(tmp_path, htpasswd=user, tls=tls) as registry:
            host = https_only_name(registry.host.replace("127.0.0.1", name))
            words = ("ls", f"{host}/app")
            trusting = crane_with(
                crane, tmp_path / "a", *words, host=host, credential=credential, SSL_CERT_FILE=str(tls.ca)
            )
            strange = crane_with(crane, tmp_path / "b", *words, host=host, credential=credential)
        assert "NAME_UNKNOWN" in trusting.stderr
        assert "x509" in strange.stderr


def _processes() -> list[Path]:
    return list(Path("/proc").glob("[0-9]*"))


def _content(process: Path, what: str) -> bytes:
    try:
        return (process / what).read_bytes()
    except OSError:
        return b""
