"""What crane prints, and what it means to a user: the one table of its errors.

Each row was seen in crane 0.21.9's output (``tests/pull/test_crane_errors.py`` has the words). Crane's errors are
``Error: <what it did>: <METHOD> <URL>: <CODE>: <message>``, or ``unexpected status code <NUMBER> …: <body>`` where the
code would be; the codes are those of the OCI distribution-spec, "Error codes". Rows are compared with crane's own words
only: neither what repositories are called nor what a registry says behind the code decides anything. What no row fits
is shown whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img.errors import (
    AuthError,
    ConflictError,
    DiskError,
    IntegrityError,
    MicropodError,
    NotFoundError,
    RateLimitedError,
    ToolError,
    UnavailableError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.run import Completed

DOCKER_HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class Request:
    """What crane was asked, for the words of an error.

    Attributes:
        ref: The reference, as the user knows it.
        endpoint: The registry that was asked, ``host[:port]``.
        stage: ``resolve``, ``fetch``, …
    """

    ref: str
    endpoint: str
    stage: str

    @property
    def purpose(self) -> str:
        """What a credential is needed for, in words."""
        return f"{'to push to' if self.stage == 'push' else 'for'} {self.ref}"


@dataclass(frozen=True, slots=True)
class _Row:
    pattern: str
    error: type[MicropodError]
    code: str
    message: str
    hint: str | None = None
    retryable: bool = False


_LOGIN = "log in with: micropod-img login {endpoint}"
_AGAIN = "try again in a moment"

_TABLE = (
    # the disk first: its words are crane's own, at the end of a longer line
    _Row(
        r"no space left on device", DiskError, "disk-full", "the disk is full", "free some space, or use another --root"
    ),
    _Row(r"disk quota exceeded", DiskError, "disk-full", "the disk quota is used up", "free some space"),
    _Row(r"read-only file system", DiskError, "read-only", "the store's filesystem is read-only", "use another --root"),
    # integrity: wrong bytes twice are no accident of the network
    _Row(
        r"does not match requested digest|error verifying sha256 checksum|does not match expected size",
        IntegrityError,
        "digest-mismatch",
        "{endpoint} sent bytes for {ref} that are not what their digest says",
        "the registry, or a proxy on the way, is broken or hostile; nothing of it was kept",
    ),
    # codes of the distribution-spec
    _Row(
        r": TOOMANYREQUESTS: |: unexpected status code 429 ",
        RateLimitedError,
        "rate-limited",
        "{endpoint} allows no more requests for now ({ref})",
        "wait (limits usually last from a minute to six hours), log in for a higher one, or use a mirror",
        retryable=True,
    ),
    _Row(
        r": MANIFEST_UNKNOWN: |: NOT_FOUND: |: TAG_EXPIRED: ",
        NotFoundError,
        "manifest-unknown",
        "{endpoint} has no {ref}",
        "micropod-img tags {repository} lists the tags that are there",
    ),
    _Row(
        r": NAME_UNKNOWN: |: NAME_INVALID: ",
        NotFoundError,
        "name-unknown",
        "{endpoint} has no repository {path}",
        "check the spelling",
    ),
    _Row(
        r": BLOB_UNKNOWN: ",
        NotFoundError,
        "blob-unknown",
        "{endpoint} has the manifest of {ref}, and not all blobs that it needs",
        "the image was not pushed whole; push it again, or pull another tag",
    ),
    _Row(
        r": UNAUTHORIZED: |: unexpected status code 401 ",
        AuthError,
        "unauthorized",
        "{endpoint} wants credentials {purpose}",
        _LOGIN,
    ),
    _Row(
        r": DENIED: |: unexpected status code 403 |: FORBIDDEN: ",
        AuthError,
        "denied",
        "{endpoint} does not allow you to {verb} {ref}",
        "your credentials may not {verb} it, or it does not exist; " + _LOGIN,
    ),
    # what only a push can meet
    _Row(
        r": TAG_INVALID: |: PRECONDITION: |: unexpected status code 412 ",
        ConflictError,
        "tag-immutable",
        "{endpoint} does not let {ref} be pushed over what is there",
        "push another tag",
    ),
    _Row(
        r": SIZE_INVALID: |: unexpected status code 413 ",
        UnsupportedError,
        "blob-too-large",
        "{endpoint}, or a proxy before it, takes no blobs as large as those of {ref}",
        "raise its limit (client_max_body_size with nginx)",
    ),
    _Row(
        r": DIGEST_INVALID: ",
        IntegrityError,
        "corrupt-blob",
        "{endpoint} got other bytes of a blob of {ref} than its digest says: it is corrupt here, or on the way",
        "micropod-img verify says whether it is damaged here, and --repair fetches it again",
    ),
    _Row(
        r": MANIFEST_INVALID: |: MANIFEST_BLOB_UNKNOWN: |: BLOB_UPLOAD_[A-Z]+: ",
        UnsupportedError,
        "push-refused",
        "{endpoint} refuses what {ref} is made of",
        "its own words are in the details (-v)",
    ),
    _Row(
        r": unexpected status code 405 ",
        UnsupportedError,
        "read-only-registry",
        "{endpoint} does not take pushes ({ref})",
        "a cache or a mirror may be read only: push to the registry itself",
    ),
    _Row(
        r"invalid realm in www-authenticate",
        AuthError,
        "token-server",
        "{endpoint} sends to a token server that crane does not trust ({ref})",
        "a token server needs HTTPS, and an address that is not private unless the registry has the same; see -v",
    ),
    _Row(
        r": unexpected status code 404 ",
        NotFoundError,
        "not-found",
        "{endpoint} has no {ref}, or is not a registry",
        "check the spelling of host and repository",
    ),
    _Row(
        r": UNSUPPORTED: |unsupported MediaType",
        UnsupportedError,
        "unsupported",
        "{endpoint} does not support what {ref} needs",
    ),
    _Row(
        r": unexpected status code 5\d\d |: UNAVAILABLE: |: INTERNAL_ERROR: |: UNKNOWN: ",
        UnavailableError,
        "server-error",
        "{endpoint} has a problem of its own ({ref})",
        _AGAIN,
        retryable=True,
    ),
    # answers of what is no registry, or no token server: a login page, a proxy's own words
    _Row(
        r"invalid character .* looking for beginning of value|unexpected end of JSON input",
        UnavailableError,
        "not-a-registry",
        "{endpoint}, or its token server, answered with something that is not JSON ({ref})",
        "a proxy or a login page may be in between; check host, port and HTTPS_PROXY",
    ),
    _Row(
        r"no token in bearer response",
        UnavailableError,
        "no-token",
        "the token server of {endpoint} answered without a token ({ref})",
        "the registry, or a proxy on the way, is misconfigured",
    ),
    # the way there; of what a proxy answers to CONNECT, Go says but the words of its status
    _Row(
        r"proxyconnect tcp: dial tcp 127\.0\.0\.1:0: ",  # `Access.without_plain_http`
        AuthError,
        "credentials-withheld",
        "{endpoint} leads from HTTPS to plain HTTP, where credentials do not go ({ref})",
        "tell whoever runs it that https://{endpoint}/v2/ redirects there",
    ),
    _Row(
        r"proxyconnect",
        UnavailableError,
        "proxy",
        "the proxy on the way to {endpoint} cannot be reached ({ref})",
        "check HTTPS_PROXY and NO_PROXY",
    ),
    _Row(
        r": (?:Proxy Authentication Required|Forbidden|Bad Gateway|Service Unavailable|Gateway Timeout)$",
        UnavailableError,
        "proxy",
        "the proxy on the way to {endpoint} refuses ({ref})",
        "check HTTPS_PROXY and NO_PROXY",
    ),
    _Row(
        r"no such host|server misbehaving|Temporary failure in name resolution|lookup .* on .*: ",
        UnavailableError,
        "unknown-host",
        "the name {endpoint} cannot be resolved ({ref})",
        "check its spelling, and this host's DNS; where a proxy is the only way out, set HTTPS_PROXY",
        retryable=True,
    ),
    _Row(
        r"server gave HTTP response to HTTPS client|first record does not look like a TLS handshake",
        UnavailableError,
        "plain-http",
        "{endpoint} speaks plain HTTP, and HTTPS was asked ({ref})",
        "if you trust the network in between: --insecure",
    ),
    _Row(
        r"x509: certificate has expired or is not yet valid",
        UnavailableError,
        "tls",
        "the TLS certificate of {endpoint} has expired, or is not valid yet ({ref})",
        "check this host's clock; if it is right, whoever runs the registry has to renew the certificate",
    ),
    _Row(
        r"x509: (?:certificate is (?:not )?valid for|cannot validate certificate for|certificate relies on legacy)",
        UnavailableError,
        "tls",
        "the TLS certificate of {endpoint} is not for that name ({ref})",
        "use a name that it is for (-v shows which), or ask for a certificate with this one",
    ),
    _Row(
        r"tls: |x509: ",
        UnavailableError,
        "tls",
        "the TLS certificate of {endpoint} is not trusted ({ref})",
        "give its CA with --ca-file, or --insecure if you trust the network in between",
    ),
    _Row(
        r"connection refused",
        UnavailableError,
        "connection-refused",
        "{endpoint} refuses connections ({ref})",
        "check host and port; is the registry running?",
        retryable=True,
    ),
    _Row(
        r"no route to host|network is unreachable|host is down",
        UnavailableError,
        "unreachable",
        "there is no way to {endpoint} from here ({ref})",
        "check the network and HTTPS_PROXY",
        retryable=True,
    ),
    _Row(
        r"i/o timeout|TLS handshake timeout|deadline exceeded|Client\.Timeout|connection timed out"
        r"|: unexpected status code 408 ",
        UnavailableError,
        "timeout",
        "{endpoint} did not answer in time ({ref})",
        _AGAIN,
        retryable=True,
    ),
    _Row(
        r"unexpected EOF|connection reset|broken pipe|: EOF$|http2: |stream error|server closed|use of closed",
        UnavailableError,
        "connection-lost",
        "{endpoint} broke the connection ({ref})",
        _AGAIN + "; layers that arrived whole are kept",
        retryable=True,
    ),
    _Row(
        r"stopped after \d+ redirects",
        UnavailableError,
        "redirect-loop",
        "{endpoint} redirects in circles ({ref})",
        "the registry, or a proxy on the way, is misconfigured",
    ),
    _Row(
        r"permission denied", DiskError, "permission", "the store may not be written", "run as the owner of the store"
    ),
    _Row(
        r"could not parse reference",
        UnsupportedError,
        "reference-unsupported",
        "crane cannot fetch {ref}, though its name is well-formed",
    ),
)


_LOGGED = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", re.MULTILINE)
_ERROR = re.compile(r"^Error: ", re.MULTILINE)
_ANSWER = re.compile(
    r"(?:GET|HEAD|POST|PUT|PATCH) \S+: (?:multiple errors returned: )?"
    r"([A-Z][A-Z_]+:|unexpected status code \d{3})(?:\s|$).*"
)
_NAME = re.compile(r"""(?<!\S)"?(?!i/o )[^\s"]*/[^\s"]*[^\s":;]""")


def translate(completed: Completed, request: Request) -> MicropodError:
    """Return the error that crane's output means.

    Args:
        completed: A crane that failed.
        request: What it was asked.
    """
    errors = _errors(completed.stderr)
    for error in errors:
        for words in _decisive_words(error.partition("\n")[0]):
            for row in _TABLE:
                if re.search(row.pattern, words):
                    return _error(row, request, completed.stderr)
    what = errors[0] or f"it ended with status {completed.status} and said nothing"
    return ToolError(
        f"crane failed for {request.ref}: {what}",
        code="crane-failed",
        stage=request.stage,
        endpoint=request.endpoint,
        detail=completed.stderr,
    )


def _errors(stderr: str) -> list[str]:
    """Return where crane's last error may begin, the likeliest first.

    What was logged before it, of attempts that were repeated, decides nothing. But the last of them is logged with the
    registry's own words, which may be of several lines, and look like an error.
    """
    logged = [match.end() for match in _LOGGED.finditer(stderr)]
    last = stderr[logged[-1] :] if logged else stderr
    return [last[match.end() :].strip() for match in _ERROR.finditer(last)] or [stderr.strip()]


def _decisive_words(line: str) -> Iterator[str]:
    """Yield what may be compared with the table: what a registry answered, then what crane says besides.

    For some names crane asks over HTTPS, then over plain HTTP, and tells both: an answer counts before a failure.
    """
    answer = _ANSWER.search(line)
    if answer is not None:
        yield f"…: {answer[1]} "
    yield _NAME.sub("…", line[: answer.start()] if answer is not None else line).strip(" ;")


def _error(row: _Row, request: Request, detail: str) -> MicropodError:
    name = request.ref.partition("@")[0]
    path = name.partition("/")[2] or name
    repository = name[: name.rfind(":")] if ":" in path else name
    fields = {
        "ref": request.ref,
        "endpoint": request.endpoint,
        "repository": repository,
        "path": repository.partition("/")[2] or repository,
        "verb": "push to" if request.stage == "push" else "read",
        "purpose": request.purpose,
    }
    message = row.message.format(**fields)
    hint = row.hint.format(**fields) if row.hint else None
    if request.endpoint == DOCKER_HUB and row.code == "unauthorized":
        # Docker Hub does not tell strangers which names exist.
        message = f"Docker Hub has no {request.ref}, or it is private and wants credentials"
        hint = f"check the spelling; if it is private: micropod-img login {DOCKER_HUB}"
    return row.error(
        message,
        code=row.code,
        hint=hint,
        stage=request.stage,
        endpoint=request.endpoint,
        retryable=row.retryable,
        detail=detail,
    )
