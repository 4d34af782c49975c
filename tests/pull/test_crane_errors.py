from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from micropod_img.pull.access import Access
from micropod_img.pull.crane import Crane, TimeLimits
from micropod_img.pull.crane_errors import Request, translate
from micropod_img.pull.endpoints import Endpoint
from micropod_img.run import Completed

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_subprocess import FakeProcess


HOST = "registry.example.com"
REF = f"{HOST}/team/app:v1"
MANIFEST = f"https://{HOST}/v2/team/app/manifests/v1"
BLOB = f"https://{HOST}/v2/team/app/blobs/sha256:{'2e' * 32}"
PING = f"https://{HOST}/v2/"
FETCHING = f"Error: fetching manifest {REF}:"
PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
VERIFY = "tls: failed to verify certificate: x509:"

# What crane 0.21.9 printed, with the addresses of servers on loopback replaced; test_crane_errors_for_real.py has those
# that were made to say it.
CAPTURED = {
    "unauthorized": (f"{FETCHING} GET {MANIFEST}: UNAUTHORIZED: authentication required", "unauthorized", 4, False),
    "unauthorized, with what was wanted": (
        (
            f"{FETCHING} GET {MANIFEST}: UNAUTHORIZED: authentication required; "
            "[map[Action:pull Class: Name:team/app Type:repository]]"
        ),
        "unauthorized",
        4,
        False,
    ),
    "401 without a challenge": (
        f"{FETCHING} GET {MANIFEST}: unexpected status code 401 Unauthorized: {PAGE.format('Unauthorized')}",
        "unauthorized",
        4,
        False,
    ),
    "wrong password at the token server": (
        (
            f"{FETCHING} GET https://auth.example.com/token?scope=repository%3Ateam%2Fapp%3Apull&service=example: "
            'unexpected status code 401 Unauthorized: {"details":"incorrect username or password"}'
        ),
        "unauthorized",
        4,
        False,
    ),
    "denied": (
        f"Error: GET {MANIFEST}: DENIED: requested access to the resource is denied",
        "denied",
        4,
        False,
    ),
    "403": (
        f"{FETCHING} GET {MANIFEST}: unexpected status code 403 Forbidden: {PAGE.format('Forbidden')}",
        "denied",
        4,
        False,
    ),
    "a token server at a private address": (
        f'{FETCHING} invalid realm in www-authenticate: realm host "10.0.0.2" is a private or link-local address',
        "token-server",
        4,
        False,
    ),
    "a token server over plain HTTP": (
        (
            f'{FETCHING} invalid realm in www-authenticate: realm scheme "http" not allowed; '
            "must be https (or http for insecure registries)"
        ),
        "token-server",
        4,
        False,
    ),
    "unknown manifest": (
        f"{FETCHING} GET {MANIFEST}: MANIFEST_UNKNOWN: manifest unknown; map[Tag:v1]",
        "manifest-unknown",
        3,
        False,
    ),
    "unknown manifest, as Harbor says it": (
        f"{FETCHING} GET {MANIFEST}: NOT_FOUND: artifact team/app:v1 not found",
        "manifest-unknown",
        3,
        False,
    ),
    "unknown repository": (
        f"{FETCHING} GET {MANIFEST}: NAME_UNKNOWN: repository name not known to registry",
        "name-unknown",
        3,
        False,
    ),
    "invalid repository": (
        f"{FETCHING} GET {MANIFEST}: NAME_INVALID: invalid repository name",
        "name-unknown",
        3,
        False,
    ),
    "several errors": (
        f"{FETCHING} GET {MANIFEST}: multiple errors returned: NAME_UNKNOWN: unknown; UNKNOWN: whatever",
        "name-unknown",
        3,
        False,
    ),
    "unknown blob": (f"Error: GET {BLOB}: BLOB_UNKNOWN: blob unknown to registry", "blob-unknown", 3, False),
    "404 without a code": (
        f"{FETCHING} GET {MANIFEST}: unexpected status code 404 Not Found: {PAGE.format('Not here')}",
        "not-found",
        3,
        False,
    ),
    "404 without a body": (f"{FETCHING} GET {MANIFEST}: unexpected status code 404 Not Found", "not-found", 3, False),
    "not a registry, over plain HTTP": (
        (
            'Error: Get "https://127.0.0.1:5000/v2/": tls: first record does not look like a TLS handshake; '
            f"GET http://127.0.0.1:5000/v2/: unexpected status code 404 Not Found: {PAGE.format('x')}"
        ),
        "not-found",
        3,
        False,
    ),
    "too many requests": (
        f"{FETCHING} GET {MANIFEST}: TOOMANYREQUESTS: You have reached your pull rate limit.",
        "rate-limited",
        6,
        True,
    ),
    "429 without a code": (
        f"{FETCHING} GET {MANIFEST}: unexpected status code 429 Too Many Requests: {PAGE.format('slow down')}",
        "rate-limited",
        6,
        True,
    ),
    "unsupported": (f"Error: GET {MANIFEST}: UNSUPPORTED: The operation is unsupported.", "unsupported", 8, False),
    "schema 1": (
        (
            'Error: unsupported MediaType: "application/vnd.docker.distribution.manifest.v1+prettyjws", '
            "see https://github.com/google/go-containerregistry/issues/377"
        ),
        "unsupported",
        8,
        False,
    ),
    "a name that crane does not take": (
        (
            'Error: fetching manifest h.example/a:v1: parsing reference "h.example/a:v1": '
            "could not parse reference: h.example/a:v1"
        ),
        "reference-unsupported",
        8,
        False,
    ),
    "500": (
        f"{FETCHING} GET {MANIFEST}: unexpected status code 500 Internal Server Error: {PAGE.format('Internal')}",
        "server-error",
        5,
        True,
    ),
    "503 with a code": (f"Error: GET {BLOB}: UNAVAILABLE: unavailable", "server-error", 5, True),
    "the disk of the registry is full": (
        f"Error: GET {BLOB}: UNKNOWN: unknown error; map[Err:28 Path:/var/x: no space left on device]",
        "server-error",
        5,
        True,
    ),
    "unknown host": (
        f'{FETCHING} Get "{PING}": dial tcp: lookup {HOST} on 192.0.2.53:53: no such host',
        "unknown-host",
        5,
        True,
    ),
    "no name server": (
        (
            f'Error: Get "{PING}": dial tcp: lookup {HOST} on 192.0.2.53:53: dial udp 192.0.2.53:53: '
            "connect: network is unreachable"
        ),
        "unknown-host",
        5,
        True,
    ),
    "refused": (
        (
            'Error: Get "https://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused; '
            'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
        ),
        "connection-refused",
        5,
        True,
    ),
    "no way": (f'Error: Get "{PING}": dial tcp 192.0.2.1:443: connect: no route to host', "unreachable", 5, True),
    "no answer to a connection": (f'Error: Get "{PING}": dial tcp 192.0.2.1:443: i/o timeout', "timeout", 5, True),
    "no answer to a handshake": (f'Error: Get "{PING}": net/http: TLS handshake timeout', "timeout", 5, True),
    "408": (f"Error: GET {MANIFEST}: unexpected status code 408 Request Timeout: late", "timeout", 5, True),
    "unknown CA": (f'{FETCHING} Get "{PING}": {VERIFY} certificate signed by unknown authority', "tls", 5, False),
    "unknown CA, and plain HTTP was tried too": (
        (
            f'Error: Get "https://127.0.0.1:5000/v2/": {VERIFY} certificate signed by unknown authority; '
            "GET http://127.0.0.1:5000/v2/: unexpected status code 400 Bad Request: "
            "Client sent an HTTP request to an HTTPS server."
        ),
        "tls",
        5,
        False,
    ),
    "wrong host name": (
        f'Error: Get "{PING}": {VERIFY} certificate is valid for other.example, not {HOST}',
        "tls",
        5,
        False,
    ),
    "plain HTTP on the port of HTTPS": (
        f'{FETCHING} Get "{PING}": tls: first record does not look like a TLS handshake',
        "plain-http",
        5,
        False,
    ),
    "plain HTTP on the port of HTTPS, in newer words": (
        f'Error: Get "{PING}": http: server gave HTTP response to HTTPS client',
        "plain-http",
        5,
        False,
    ),
    "reset": (
        f'Error: Get "{MANIFEST}": read tcp 192.0.2.7:45650->192.0.2.1:443: read: connection reset by peer',
        "connection-lost",
        5,
        True,
    ),
    "closed without an answer": (f'Error: Get "{PING}": EOF', "connection-lost", 5, True),
    "a body that was cut": ("Error: error writing layer: unexpected EOF", "connection-lost", 5, True),
    "HTTP/2 stream": (
        "Error: error writing layer: stream error: stream ID 5; INTERNAL_ERROR; received from peer",
        "connection-lost",
        5,
        True,
    ),
    "proxy that is not there": (
        f'Error: Get "{PING}": proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused',
        "proxy",
        5,
        False,
    ),
    "proxy with a password": (f'Error: Get "{PING}": Proxy Authentication Required', "proxy", 5, False),
    "proxy that has a problem": (f'{FETCHING} Get "{PING}": Service Unavailable', "proxy", 5, False),
    "redirects": (f'Error: Get "{MANIFEST}": stopped after 10 redirects', "redirect-loop", 5, False),
    "wrong bytes of a layer": (
        (
            "Error: error writing layer: error verifying sha256 checksum after reading 99 bytes; "
            f'got "sha256:{"e3" * 32}", '
            f'want "sha256:{"2e" * 32}"'
        ),
        "digest-mismatch",
        7,
        False,
    ),
    "wrong bytes of a manifest": (
        (
            f'Error: manifest digest: "sha256:{"19" * 32}" does not match requested digest: "sha256:{"1f" * 32}" '
            f'for "{HOST}/team/app@sha256:{"1f" * 32}"'
        ),
        "digest-mismatch",
        7,
        False,
    ),
    "wrong size of a layer": (
        f"Error: GET {BLOB}: Content-Length header 20 does not match expected size 99",
        "digest-mismatch",
        7,
        False,
    ),
    "full disk": (
        (
            "Error: error writing layer: "
            f"write /var/lib/micropod/tmp/pull-1/layout/blobs/sha256/{'2e' * 32}81073766684: "
            "no space left on device"
        ),
        "disk-full",
        10,
        False,
    ),
    "quota": ("Error: mkdir /var/lib/micropod/tmp/pull-1/layout: disk quota exceeded", "disk-full", 10, False),
    "read-only disk": ("Error: mkdir /var/lib/x: read-only file system", "read-only", 10, False),
    "foreign disk": ("Error: mkdir /var/lib/x: permission denied", "permission", 10, False),
    "something new": ("Error: the moon is in the way", "crane-failed", 11, False),
}


def crane_for(program: Path, ref: str = REF, host: str = HOST) -> Crane:
    path = ref.removeprefix(f"{host}/").rpartition(":")[0]
    endpoint = Endpoint(host, path, insecure=False, is_mirror=False, reference_text=ref)
    return Crane(program, Access(endpoint, {}), TimeLimits(timeout=None, stall_timeout=60))


def error_of(stderr: str, *, ref: str = REF, host: str = HOST, status: int = 1) -> MicropodError:
    return translate(Completed(status, b"", stderr), Request(ref, host, "resolve"))


@pytest.mark.parametrize(("words", "code", "status", "retryable"), CAPTURED.values(), ids=CAPTURED)
def test_what_crane_prints_becomes_an_error(
    words: str, code: str, status: int, *, retryable: bool, crane: Path, fp: FakeProcess
) -> None:
    fp.register([fp.any()], stderr=words + "\n", returncode=1)
    with pytest.raises(MicropodError) as caught:
        crane_for(crane).manifest(None, Request(REF, HOST, "resolve"))
    error = caught.value
    assert (error.code, error.exit_status, error.retryable) == (code, status, retryable)
    assert (error.stage, error.endpoint) == ("resolve", HOST)
    assert error.detail is not None
    assert words in error.detail
    assert REF in error.message or HOST in error.message or error.exit_status == 10


ATTEMPTS = {
    "429, then not found": (
        (
            f"2026/01/02 03:04:05 retrying GET {MANIFEST}: TOOMANYREQUESTS: You have reached your pull rate limit.\n"
            f"{FETCHING} GET {MANIFEST}: MANIFEST_UNKNOWN: manifest unknown"
        ),
        "manifest-unknown",
    ),
    "HEAD refused, then GET": (
        (
            "2026/01/02 03:04:05 HEAD request failed, falling back on GET: "
            f"HEAD {MANIFEST}: unexpected status code 403 "
            f"Forbidden (HEAD responses have no body, use GET for details)\n"
            f"Error: GET {MANIFEST}: NAME_UNKNOWN: repository name not known to registry"
        ),
        "name-unknown",
    ),
    "a body of several lines, logged and then told": (
        (
            f"2026/01/02 03:04:05 retrying GET {MANIFEST}: unexpected status code 502 Bad Gateway: <html>\n"
            "Error: this is the body\nx509: so is this\n</html>\n"
            f"{FETCHING} GET {MANIFEST}: unexpected status code 502 Bad Gateway: <html>\n"
            "Error: this is the body\nx509: so is this\n</html>"
        ),
        "server-error",
    ),
    "a body that says that it is an error": (
        f"Error: GET {MANIFEST}: unexpected status code 403 Forbidden: Error: no space left on device",
        "denied",
    ),
    "a body that says what crane might": (
        f"Error: GET {MANIFEST}: unexpected status code 418 I'm a teapot: x509: certificate, connection refused",
        "crane-failed",
    ),
    "a warning": (
        f"2026/01/02 03:04:05 Unexpected media type for Image(): tls: x509:\nError: GET {BLOB}: DENIED: no",
        "denied",
    ),
}


@pytest.mark.parametrize(("stderr", "code"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_only_the_last_words_of_crane_itself_decide(stderr: str, code: str) -> None:
    error = error_of(stderr)
    assert error.code == code
    assert error.detail == stderr


@pytest.mark.parametrize(
    "name", ["toomanyrequests", "unauthorized", "denied", "certificates", "x509", "tls", "proxyconnect"]
)
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (
            (
                "fetching manifest {ref}: "
                "GET https://{host}/v2/{path}/manifests/{tag}: unexpected status code 404 Not Found"
            ),
            "not-found",
        ),
        (
            'Get "https://{host}/v2/{path}/manifests/{tag}": read tcp 1->2: read: connection reset by peer',
            "connection-lost",
        ),
        (
            "GET https://{host}/v2/{path}/blobs/sha256:00: BLOB_UNKNOWN: blob unknown to registry; {tag}: 429",
            "blob-unknown",
        ),
        (
            'manifest digest: "sha256:00" does not match requested digest: "sha256:01" for "{host}/{path}@sha256:01"',
            "digest-mismatch",
        ),
        ("mkdir /srv/{tag}/x: no space left on device", "disk-full"),
    ],
)
def test_how_an_image_is_called_decides_nothing(name: str, words: str, code: str) -> None:
    host = f"{name}.example.com"
    ref = f"{host}/{name}/{name}:{name}"
    stderr = "Error: " + words.format(ref=ref, host=host, path=f"{name}/{name}", tag=name)
    assert error_of(stderr, ref=ref, host=host).code == code


def test_what_is_not_in_the_table_is_shown_whole() -> None:
    words = "Error: the moon is in the way\nand Venus, too"
    error = error_of(words)
    assert error.message == f"crane failed for {REF}: the moon is in the way\nand Venus, too"
    assert error.detail == words


def test_a_crane_that_panics_is_shown_whole() -> None:
    words = "panic: runtime error: index out of range [3] with length 3\n\ngoroutine 1 [running]:\n"
    assert words.strip() in error_of(words, status=2).message


def test_a_crane_that_dies_in_silence_says_how() -> None:
    assert error_of("", status=-9).message == f"crane failed for {REF}: it ended with status -9 and said nothing"


def test_docker_hub_does_not_tell_what_exists_so_both_is_said() -> None:
    ref = "docker.io/library/nosuch:latest"
    url = "https://index.docker.io/v2/library/nosuch/manifests/latest"
    error = error_of(f"Error: GET {url}: UNAUTHORIZED: authentication required", ref=ref, host="docker.io")
    assert error.code == "unauthorized"
    assert "has no docker.io/library/nosuch:latest, or it is private" in error.message
    assert "spelling" in (error.hint or "")
    assert "micropod-img login docker.io" in (error.hint or "")


@pytest.mark.parametrize(
    ("ref", "words", "said"),
    [
        (f"{HOST}:5000/team/app:v1", "NAME_UNKNOWN", "no repository team/app"),
        (f"{HOST}:5000/team/app:v1", "MANIFEST_UNKNOWN", f"micropod-img tags {HOST}:5000/team/app lists"),
        (f"{HOST}/team/app@sha256:{'00' * 32}", "MANIFEST_UNKNOWN", f"micropod-img tags {HOST}/team/app lists"),
        (f"{HOST}/team/app:v1@sha256:{'00' * 32}", "NAME_UNKNOWN", "no repository team/app"),
    ],
)
def test_messages_and_hints_name_the_repository_without_tag_and_digest(ref: str, words: str, said: str) -> None:
    error = error_of(f"Error: GET https://h/v2/x/manifests/y: {words}: whatever", ref=ref)
    assert said in f"{error.message} {error.hint}"
