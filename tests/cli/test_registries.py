"""Commands that speak to registries, against real ones: credentials, private authorities, plans, pushes."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from micropod_img.platforms import host_platform
from tests.support import stores
from tests.support.faults import basic_auth
from tests.support.images import OCI_MANIFEST, image
from tests.support.layers import layer, random_layer
from tests.support.push import push
from tests.support.registries import Registry, make_certificates, make_credentials, start_distribution
from tests.support.token_server import TokenServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.command_line import CommandLine, Said
    from tests.support.scripted import ScriptedRegistry

SECRET = "correct-horse-battery-staple"
IMAGE = image([layer({"etc/motd": b"welcome\n"}), random_layer(100_000)], platform=str(host_platform()))
BLOB_BYTES = sum(blob.size for blob in IMAGE.blobs)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with a password, and a certificate of a private authority; it has an image."""
    directory = tmp_path_factory.mktemp("private-registry")
    tls = make_certificates(directory)
    with start_distribution(directory, htpasswd=make_credentials(directory), tls=tls) as registry:
        push(registry, "team/app", "v1", IMAGE)
        yield registry


@pytest.fixture
def ref(private: Registry) -> str:
    return private.reference("team/app", "v1")


@pytest.fixture
def auth_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logins are stored; it need not exist, so it is the file of Docker."""
    directory = tmp_path / "docker"
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return directory / "config.json"


def credentials(registry: Registry) -> tuple[str, str]:
    assert registry.credentials is not None
    return registry.credentials


def log_in(micropod: CommandLine, registry: Registry, piped: Callable[[str], None]) -> Said:
    user, password = credentials(registry)
    piped(f"{password}\n")
    return micropod("login", registry.host, "--username", user, "--password-stdin", f"--ca-file={registry.ca}")


@pytest.mark.usefixtures("auth_file")
def test_without_credentials_a_private_image_is_status_4_with_the_command_to_log_in(
    micropod: CommandLine, private: Registry, ref: str
) -> None:
    said = micropod("pull", ref, f"--ca-file={private.ca}")
    assert said.status == 4
    assert f"log in with: micropod-img login {private.host}" in said.err


def test_with_credentials_for_the_call_it_is_pulled(
    micropod: CommandLine, private: Registry, ref: str, piped: Callable[[str], None]
) -> None:
    user, password = credentials(private)
    piped(f"{password}\n")
    said = micropod("pull", "-v", ref, "-u", user, "--password-stdin", f"--ca-file={private.ca}")
    assert said.status == 0, said.err
    assert f"{private.host} is shown a credential: given for this call" in said.err
    assert password not in said.err + said.out


def test_wrong_credentials_are_status_4(
    micropod: CommandLine, private: Registry, ref: str, piped: Callable[[str], None]
) -> None:
    piped(SECRET)
    said = micropod("--json", "pull", ref, "-u", "tester", "--password-stdin", f"--ca-file={private.ca}")
    assert said.status == 4
    error = said.document["error"]
    assert isinstance(error, dict)
    assert error["code"] == "unauthorized"
    assert "does not accept the credential that it was shown (given for this call)" in str(error["message"])
    assert SECRET not in said.out + said.err


@pytest.mark.usefixtures("auth_file")
def test_a_private_authority_that_is_not_known_is_said_with_the_option_that_names_it(
    micropod: CommandLine, ref: str, piped: Callable[[str], None]
) -> None:
    piped(SECRET)
    said = micropod("pull", ref, "-u", "tester", "--password-stdin")
    assert said.status == 5
    assert "certificate" in said.err
    assert "--ca-file" in said.err


def test_a_login_is_stored_used_shown_and_forgotten(
    micropod: CommandLine, private: Registry, ref: str, piped: Callable[[str], None], auth_file: Path
) -> None:
    said = log_in(micropod, private, piped)
    assert said.status == 0, said.err
    assert said.out == f"logged in to {private.host}; stored in {auth_file}\n"
    assert stat.S_IMODE(auth_file.stat().st_mode) == 0o600
    said = micropod("pull", "-v", ref, f"--ca-file={private.ca}")
    assert said.status == 0, said.err
    assert f"is shown a credential: {auth_file} (auths: {private.host})" in said.err
    said = micropod("pull", "--policy=always", ref, f"--ca-file={private.ca}")
    assert "credential" not in said.err
    assert micropod("logout", private.host).out == f"logged out from {private.host}: removed from {auth_file}\n"
    again = micropod("logout", private.host)
    assert again.status == 3
    assert f"there is no login to {private.host} in {auth_file}" in again.err
    assert micropod("pull", "--policy=always", ref, f"--ca-file={private.ca}").status == 4


def test_a_login_that_the_registry_refuses_is_not_stored(
    micropod: CommandLine, private: Registry, piped: Callable[[str], None], auth_file: Path
) -> None:
    piped(SECRET)
    said = micropod("login", private.host, "-u", "tester", "--password-stdin", f"--ca-file={private.ca}")
    assert said.status == 4
    assert not auth_file.exists()
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize(
    ("words", "piped_text", "message"),
    [
        (["pull", "app", "--password-stdin"], "x", "--username and --password-stdin go together"),
        (["pull", "app", "--username=me"], "x", "--username and --password-stdin go together"),
        (["pull", "app", "--token-stdin", "--username=me"], "x", "--token-stdin goes without"),
        (["pull", "app", "--username=me", "--password-stdin"], "", "standard input is empty"),
        (["pull", "app", "--ca-file=/no/such/file"], "", "/no/such/file is not a file"),
        (["login", "example.com", "--password-stdin"], "x", "--password-stdin needs --username"),
        (["login", "example.com"], "", "there is no terminal to ask for the password"),
        (["login", "alpine", "--username=me", "--password-stdin"], "x", "is not a registry"),
        (["push", "app", "--platform=linux/amd64", "--all-platforms"], "", "all platforms and one platform"),
        (["tags", "alpine:3"], "", "is an image, not a repository"),
    ],
)
def test_options_that_do_not_fit_together_are_status_2(
    words: list[str], piped_text: str, message: str, micropod: CommandLine, piped: Callable[[str], None]
) -> None:
    piped(piped_text)
    said = micropod(*words)
    assert said.status == 2
    assert message in said.err


def test_a_plan_says_what_would_be_fetched_from_where_and_nothing_is_done(
    micropod: CommandLine, private: Registry, ref: str, piped: Callable[[str], None], auth_file: Path
) -> None:
    log_in(micropod, private, piped)
    said = micropod("--json", "pull", "--plan", ref, f"--ca-file={private.ca}")
    assert said.status == 0, said.err
    data = said.document["data"]
    assert isinstance(data, dict)
    assert isinstance(data["plans"], list)
    (plan,) = data["plans"]
    assert isinstance(plan, dict)
    free = plan.pop("free_bytes")
    assert isinstance(free, int)
    assert plan == {
        "ref": ref,
        "digest": IMAGE.digest,
        "platform": str(host_platform()),
        "fetch": True,
        "endpoints": [
            {
                "host": private.host,
                "reference": ref,
                "mirror": False,
                "insecure": False,
                "credential_source": f"{auth_file} (auths: {private.host})",
                "answer": "has it",
            }
        ],
        "layers": [{"digest": one.digest, "size": one.size, "present": False} for one in IMAGE.layers],
        "download_bytes": BLOB_BYTES,
        "present_bytes": 0,
        "needed_bytes": BLOB_BYTES + IMAGE.size,
    }
    assert list(micropod.root.iterdir()) == []
    assert credentials(private)[1] not in said.out + said.err


def test_a_plan_counts_what_is_here(micropod: CommandLine, registry: Registry, repository: str) -> None:
    name = push(registry, repository, "v1", IMAGE)
    shared = image(IMAGE.layers[:1], platform=str(host_platform()))
    assert micropod("pull", push(registry, repository, "base", shared)).status == 0
    before = stores.blobs(micropod.root)
    said = micropod("pull", "--plan", name)
    assert said.status == 0
    assert f"{registry.host}/{repository}:v1, registry, no credential, has it" in said.out
    assert "1 of 2 layers" in said.out
    assert stores.blobs(micropod.root) == before
    assert stores.problems(micropod.root) == []
    assert micropod("pull", name).status == 0
    assert "nothing: it is here" in micropod("pull", "--plan", name).out


def test_a_plan_shows_progress_as_it_was_asked_to(micropod: CommandLine, registry: Registry, repository: str) -> None:
    said = micropod("pull", "--plan", "--progress=json", registry.reference(repository, "none"))
    (line,) = map(json.loads, said.err.splitlines())
    assert (said.status, line["event"], line["error"]["exit_status"]) == (3, "error", 3)
    assert micropod("pull", "--plan", "--progress=loud", "alpine").status == 2


def test_an_image_is_pushed_and_its_tags_are_listed(micropod: CommandLine, registry: Registry, repository: str) -> None:
    assert micropod("pull", push(registry, repository, "1.9", IMAGE)).status == 0
    source, destination = registry.reference(repository, "1.9"), registry.reference(repository, "1.10")
    said = micropod("--json", "push", source, destination)
    assert said.document["data"] == {
        "ref": destination,
        "digest": IMAGE.digest,
        "media_type": OCI_MANIFEST,
        "pushed_bytes": IMAGE.size,
        "present_bytes": BLOB_BYTES,
    }
    assert micropod("push", "-q", source, destination).out == f"{IMAGE.digest}\n"
    assert micropod("tags", f"{registry.host}/{repository}").out == "1.9\n1.10\n"
    said = micropod("--json", "tags", f"{registry.host}/{repository}")
    assert said.document["data"] == {"repository": f"{registry.host}/{repository}", "tags": ["1.9", "1.10"]}


def test_a_push_needs_credentials(
    micropod: CommandLine, private: Registry, ref: str, piped: Callable[[str], None], auth_file: Path
) -> None:
    log_in(micropod, private, piped)
    ca = f"--ca-file={private.ca}"
    assert micropod("pull", ref, ca).status == 0
    new = private.reference("team/pushed", "v2")
    assert micropod("push", ref, new, ca).status == 0
    assert micropod("tags", f"{private.host}/team/pushed", ca).out == "v2\n"
    auth_file.unlink()
    said = micropod("push", ref, private.reference("team/pushed", "v3"), ca)
    assert said.status == 4
    assert micropod("tags", f"{private.host}/team/pushed", ca).status == 4


def test_json_of_login_and_logout(
    micropod: CommandLine, private: Registry, piped: Callable[[str], None], auth_file: Path
) -> None:
    user, password = credentials(private)
    piped(password)
    said = micropod("--json", "login", private.host, "-u", user, "--password-stdin", f"--ca-file={private.ca}")
    stored = {"registry": private.host, "stored_in": str(auth_file), "check": "accepted", "shadowed_by": None}
    # A registry with Basic authentication proves a credential as well as a token server does.
    data = said.document["data"]
    assert isinstance(data, dict)
    assert {**data, "check": "accepted"} == stored
    said = micropod("--json", "logout", private.host)
    assert said.document["data"] == {
        "registry": private.host,
        "removed_from": [str(auth_file)],
        "remaining": None,
    }


@pytest.mark.usefixtures("auth_file")
def test_credentials_do_not_go_over_plain_http_unless_insecure_is_said(
    micropod: CommandLine, scripted: ScriptedRegistry, piped: Callable[[str], None]
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    scripted.faults = (basic_auth("user", SECRET),)
    words = ("pull", name, "-u", "user", "--password-stdin")
    piped(SECRET)
    said = micropod(*words)
    assert said.status == 4
    assert "plain HTTP" in said.err
    assert "--insecure" in said.err
    assert not [request for request in scripted.requests if "authorization" in request.headers]
    piped(SECRET)
    assert micropod(*words, "--insecure").status == 0


@pytest.mark.usefixtures("auth_file")
def test_an_identity_token_is_exchanged_for_tokens(
    micropod: CommandLine, scripted: ScriptedRegistry, piped: Callable[[str], None]
) -> None:
    name = scripted.serve("some/image", "v1", IMAGE)
    server = TokenServer(scripted, refresh_tokens={SECRET}, readable={"some/image"})
    scripted.faults = (server,)
    assert micropod("pull", name).status == 4
    piped(SECRET)
    assert micropod("login", scripted.host, "--token-stdin", "--insecure").status == 0
    assert micropod("pull", name, "--insecure").status == 0
    server.refresh_tokens.clear()
    assert micropod("pull", name, "--insecure", "--policy=always").status == 4
