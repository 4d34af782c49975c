from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from micropod_img import run
from micropod_img.errors import AuthError, MicropodError, UnavailableError, UsageError
from micropod_img.pull.crane_credentials import private_docker_config, private_environment
from micropod_img.pull.login_check import LoginCheck, LoginTarget, check_login
from micropod_img.pull.secret import Credential
from tests.support.registries import make_certificates, make_credentials, start_distribution
from tests.support.scripted import Fault, RecordedRequest, Response, ScriptedRegistry, oci_error
from tests.support.token_server import TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.registries import Registry

SECRET = "correct-horse-battery-staple"
RIGHT = Credential.from_password("me", SECRET)
WRONG = Credential.from_password("me", "wrong-horse")


@dataclass
class Runner:
    """Runs the real crane as the adapter does, and keeps what it was told."""

    crane: Path
    directory: Path
    ca: Path | None = None
    runs: int = 0
    told: str = ""

    def __call__(self, arguments: Sequence[str], *, host: str, credential: Credential) -> run.Completed:
        self.runs += 1
        private = self.directory / f"private-{self.runs}"
        private.mkdir(mode=0o700)
        private_docker_config(private, host, credential)
        environment = private_environment(private) | ({"SSL_CERT_FILE": str(self.ca)} if self.ca else {})
        self.told += repr((arguments, environment))
        return run.run([str(self.crane), *arguments], env=environment, timeout=60)


@pytest.fixture
def run_crane(crane: Path, tmp_path: Path) -> Runner:
    return Runner(crane, tmp_path)


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with Basic authentication, TLS, and a private CA."""
    directory = tmp_path_factory.mktemp("with-tls")
    credentials = make_credentials(directory)
    with start_distribution(directory, htpasswd=credentials, tls=make_certificates(directory)) as registry:
        yield registry


def answers(status: int, code: str, *, only: str = "") -> Fault:
    """A fault: Basic authentication is asked for, and whoever has any gets this answer."""

    def fault(request: RecordedRequest, response: Response) -> Response:
        if "authorization" not in request.headers:
            return oci_error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="tests"'})
        return oci_error(status, code) if only in request.path else response

    return fault


class TestBasic:
    def user(self, registry: Registry) -> tuple[str, str]:
        assert registry.credentials is not None
        return registry.credentials

    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
    @pytest.mark.parametrize("namespace", ["", "team/app"])
    def test_the_right_password_is_accepted_over_verified_tls(
        self, run_crane: Runner, with_tls: Registry, name: str, namespace: str
    ) -> None:
        run_crane.ca = with_tls.ca
        target = LoginTarget(with_tls.host.replace("127.0.0.1", name), namespace)
        credential = Credential.from_password(*self.user(with_tls))
        assert check_login(target, credential, run_crane=run_crane) is LoginCheck.ACCEPTED
        assert "--insecure" not in run_crane.told
        assert credential.redact(run_crane.told) == run_crane.told

    def test_the_wrong_password_is_refused(self, run_crane: Runner, with_tls: Registry) -> None:
        run_crane.ca = with_tls.ca
        with pytest.raises(AuthError, match=rf"^{with_tls.host} did not accept the credentials of me$") as caught:
            check_login(LoginTarget(with_tls.host), WRONG, run_crane=run_crane)
        assert (caught.value.code, caught.value.exit_status) == ("unauthorized", 4)
        assert with_tls.host in (caught.value.detail or "")
        assert "::ffff:" not in (caught.value.detail or "")

    def test_a_certificate_that_is_not_trusted_is_no_matter_of_credentials(
        self, run_crane: Runner, with_tls: Registry
    ) -> None:
        with pytest.raises(UnavailableError) as caught:
            check_login(LoginTarget(with_tls.host), RIGHT, run_crane=run_crane)
        assert caught.value.code == "tls"

    def test_but_insecure_takes_it(self, run_crane: Runner, with_tls: Registry) -> None:
        credential = Credential.from_password(*self.user(with_tls))
        target = LoginTarget(with_tls.host)
        assert check_login(target, credential, run_crane=run_crane, insecure=True) is LoginCheck.ACCEPTED

    def test_plain_http_gets_no_credential_without_insecure(
        self, run_crane: Runner, scripted: ScriptedRegistry
    ) -> None:
        scripted.faults = (answers(404, "MANIFEST_UNKNOWN"),)
        with pytest.raises(AuthError, match="speaks plain HTTP: credentials are not sent over it") as caught:
            check_login(LoginTarget(scripted.host), RIGHT, run_crane=run_crane)
        assert (caught.value.code, "--insecure" in (caught.value.hint or "")) == ("credentials-withheld", True)
        assert not scripted.requests
        target = LoginTarget(scripted.host)
        assert check_login(target, RIGHT, run_crane=run_crane, insecure=True) is LoginCheck.ACCEPTED

    @pytest.mark.parametrize(
        ("status", "code", "outcome"),
        [
            (404, "NAME_UNKNOWN", "accepted"),
            (404, "MANIFEST_UNKNOWN", "accepted"),
            (404, "NOT_FOUND", "accepted"),
            (400, "NAME_INVALID", "accepted"),
            (405, "UNSUPPORTED", "accepted"),
            (200, "", "accepted"),
            (404, "ODD", "accepted"),
            (401, "ODD", "unauthorized"),
            (401, "UNAUTHORIZED", "unauthorized"),
            (403, "DENIED", "denied"),
            (429, "TOOMANYREQUESTS", "rate-limited"),
            (501, "UNAVAILABLE", "server-error"),
        ],
    )
    def test_what_the_registry_answers_decides(
        self, run_crane: Runner, scripted: ScriptedRegistry, status: int, code: str, outcome: str
    ) -> None:
        scripted.faults = (answers(status, code, only="/manifests/"),)
        target = LoginTarget(scripted.host)
        try:
            said = check_login(target, RIGHT, run_crane=run_crane, insecure=True).value
        except MicropodError as error:
            said = error.code
        assert said == outcome


class TestBearer:
    def check(
        self, registry: ScriptedRegistry, credential: Credential, run_crane: Runner, namespace: str = ""
    ) -> LoginCheck:
        return check_login(LoginTarget(registry.host, namespace), credential, run_crane=run_crane, insecure=True)

    @pytest.mark.parametrize("readable", [set[str](), {"login-check"}, {"team/app"}])
    @pytest.mark.parametrize("namespace", ["", "team/app"])
    @pytest.mark.parametrize("credential", [RIGHT, Credential.from_identity_token(SECRET)], ids=["password", "token"])
    def test_what_the_token_server_takes_is_accepted_whatever_may_be_read_with_it(
        self,
        run_crane: Runner,
        scripted: ScriptedRegistry,
        readable: set[str],
        namespace: str,
        credential: Credential,
    ) -> None:
        scripted.faults = (TokenServer(scripted, {"me": SECRET}, {SECRET}, readable),)
        assert self.check(scripted, credential, run_crane, namespace) is LoginCheck.ACCEPTED
        assert credential.redact(run_crane.told) == run_crane.told

    @pytest.mark.parametrize(("refusal", "code"), [(401, "unauthorized"), (403, "denied")])
    @pytest.mark.parametrize("credential", [WRONG, Credential.from_identity_token("wrong")], ids=["password", "token"])
    def test_what_it_refuses_is_refused(
        self, run_crane: Runner, scripted: ScriptedRegistry, refusal: int, code: str, credential: Credential
    ) -> None:
        scripted.faults = (TokenServer(scripted, {"me": SECRET}, {SECRET}, refusal=refusal),)
        with pytest.raises(AuthError, match="did not accept") as caught:
            self.check(scripted, credential, run_crane)
        assert caught.value.code == code
        assert credential.redact(repr(vars(caught.value))) == repr(vars(caught.value))

    def test_a_refresh_token_that_oauth2_calls_an_invalid_grant_is_refused(
        self, run_crane: Runner, scripted: ScriptedRegistry
    ) -> None:
        scripted.faults = (TokenServer(scripted, refusal=400),)
        with pytest.raises(AuthError, match="did not accept the token"):
            self.check(scripted, Credential.from_identity_token("old"), run_crane)

    def test_a_token_server_without_oauth2_proves_nothing_of_an_identity_token(
        self, run_crane: Runner, scripted: ScriptedRegistry
    ) -> None:
        scripted.faults = (TokenServer(scripted, oauth2=False),)
        token = Credential.from_identity_token(SECRET)
        assert self.check(scripted, token, run_crane) is LoginCheck.UNPROVED

    @pytest.mark.parametrize("body", [b"<html>welcome</html>", b"{}", b""])
    def test_a_token_that_is_none_is_no_success(
        self, run_crane: Runner, scripted: ScriptedRegistry, body: bytes
    ) -> None:
        def nonsense(request: RecordedRequest, response: Response) -> Response:
            return Response(200, {}, body) if request.path.startswith("/token") else response

        scripted.faults = (TokenServer(scripted, {"me": SECRET}), nonsense)
        with pytest.raises(MicropodError) as caught:
            self.check(scripted, RIGHT, run_crane)
        assert not isinstance(caught.value, AuthError)


def test_a_registry_that_asks_nobody_proves_nothing(run_crane: Runner, scripted: ScriptedRegistry) -> None:
    target = LoginTarget(scripted.host)
    assert check_login(target, RIGHT, run_crane=run_crane, insecure=True) is LoginCheck.UNPROVED


def test_a_registry_that_is_not_there_is_said(run_crane: Runner) -> None:
    with pytest.raises(UnavailableError) as caught:
        check_login(LoginTarget("127.0.0.1:1"), RIGHT, run_crane=run_crane)
    assert caught.value.code == "connection-refused"


def test_a_registry_token_is_not_for_storing(run_crane: Runner) -> None:
    with pytest.raises(UsageError, match="lasts for minutes"):
        check_login(LoginTarget("r.example"), Credential.from_registry_token(SECRET), run_crane=run_crane)
    assert run_crane.runs == 0
