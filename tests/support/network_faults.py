"""What can go wrong between a host and a registry, and what comes of it: the table that docs/registries.md tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from micropod_img.pull import retry
from tests.support.faults import (
    BLOBS,
    MANIFESTS,
    altered,
    bearer_auth,
    cut,
    dripping,
    html,
    on,
    redirect,
    reset,
    silent,
    stalled,
    too_many_requests,
    truncated,
)
from tests.support.images import image
from tests.support.layers import layer, random_layer
from tests.support.scripted import Response, oci_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.scripted import Fault, ScriptedRegistry

Alone: TypeAlias = Literal["succeeds", "fails", "hangs"]

SMALL = layer({"etc/motd": b"welcome\n"})
BIG = random_layer(400_000)
IMAGE = image([SMALL, BIG])
CONFIG_SIZE = IMAGE.config.size if IMAGE.config else 0
OF_BIG = f"{BLOBS}{BIG.digest}"
OF_TAG = f"{MANIFESTS}v1"


@dataclass(frozen=True)
class Case:
    """A fault, and what comes of it.

    Attributes:
        faults: Of a registry that holds the image.
        alone: What ``crane pull`` alone does.
        code: The error's code; None: the image is pulled.
        status: The exit status.
        within: Seconds.
        layer_requests: How often the big layer is asked for at most; 0 where it is not asked for.
        timeout: Seconds for all of it.
        stall: Seconds without a sign of life.
        attempts: How often it is tried; fewer than in earnest where crane takes four seconds for each.
    """

    faults: Callable[[ScriptedRegistry], tuple[Fault, ...]]
    alone: Alone
    code: str | None = None
    status: int = 0
    within: float = 5.0
    layer_requests: int = 3
    timeout: float | None = None
    stall: float = 60
    attempts: int = retry.ATTEMPTS


def always(*faults: Fault) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda _registry: faults


def once(
    pattern: str, outcome: Response | Callable[[Response], Response]
) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda _registry: (on(pattern, outcome, times=1),)


def each(
    pattern: str, outcome: Response | Callable[[Response], Response]
) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda _registry: (on(pattern, outcome),)


def times(pattern: str, outcome: Response, number: int) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda _registry: (on(pattern, outcome, times=number),)


def elsewhere(registry: ScriptedRegistry) -> tuple[Fault, ...]:
    registry.serve_blob("of/storage", BIG)
    host = registry.host.replace("127.0.0.1", "localhost")
    return (on(f"some/image{OF_BIG}", redirect(f"http://{host}/v2/of/storage{OF_BIG}")),)


def token(answer: Response) -> Callable[[ScriptedRegistry], tuple[Fault, ...]]:
    return lambda registry: (bearer_auth(registry.url), on("^/token", answer))


# The second request is crane's own: it asks for each layer before it looks whether it has it.
CASES = {
    "reset-once": Case(once(OF_BIG, reset(1000)), "fails"),
    "reset-always": Case(each(OF_BIG, reset(1000)), "fails", "connection-lost", 5),
    "cut-once": Case(once(OF_BIG, cut(1000)), "fails"),
    "cut-always": Case(each(OF_BIG, cut(1000)), "fails", "connection-lost", 5),
    "manifest-reset-once": Case(once(OF_TAG, reset(10)), "fails"),
    "manifest-cut-always": Case(each(OF_TAG, cut(10)), "fails", "connection-lost", 5, layer_requests=0),
    "stalled-once": Case(once(OF_BIG, stalled(1000)), "hangs", stall=1),
    "stalled-always": Case(each(OF_BIG, stalled(1000)), "hangs", "stalled", 5, stall=1),
    "silent": Case(each(OF_TAG, silent()), "hangs", "timeout", 5, layer_requests=0, stall=1),
    "slow-drip": Case(each(OF_BIG, dripping(160_000)), "succeeds", stall=1),
    "slow-drip-timeout": Case(each(OF_BIG, dripping(20_000)), "hangs", "timeout", 5, timeout=2),
    "429-once": Case(once(OF_TAG, too_many_requests()), "succeeds"),
    "429-always": Case(
        each(OF_TAG, too_many_requests()), "fails", "rate-limited", 6, within=8, layer_requests=0, attempts=1
    ),
    "429-retry-after": Case(times(OF_TAG, too_many_requests("1"), 5), "fails", within=15),
    "429-retry-after-long": Case(
        each(OF_TAG, too_many_requests("3600")), "fails", "rate-limited", 6, within=15, layer_requests=0
    ),
    "429-layer": Case(times(OF_BIG, too_many_requests("1"), 4), "fails", within=15, layer_requests=7),
    "503-once": Case(once(OF_TAG, html(503)), "succeeds"),
    "503-long": Case(times(OF_TAG, html(503), 4), "fails", within=15),
    "500-always": Case(each(OF_TAG, oci_error(500, "UNKNOWN")), "fails", "server-error", 5, 8, 0, attempts=1),
    "502-always": Case(each(OF_TAG, html(502)), "fails", "server-error", 5, 8, 0, attempts=1),
    "503-always": Case(each(OF_BIG, html(503)), "fails", "server-error", 5, 8, attempts=1),
    "504-always": Case(each(OF_TAG, html(504)), "fails", "server-error", 5, 8, 0, attempts=1),
    "wrong-bytes-once": Case(once(OF_BIG, altered()), "fails"),
    "wrong-bytes-twice": Case(each(OF_BIG, altered()), "fails", "digest-mismatch", 7, layer_requests=2),
    "shorter-body": Case(each(OF_BIG, truncated(1000)), "fails", "digest-mismatch", 7, layer_requests=2),
    "wrong-content-length": Case(
        each(OF_BIG, lambda right: replace(right, content_length=1000)), "fails", "digest-mismatch", 7, layer_requests=2
    ),
    "redirect-elsewhere": Case(elsewhere, "succeeds", layer_requests=4),
    "redirect-nowhere": Case(each(OF_BIG, redirect("http://127.0.0.1:1/blob")), "fails", "connection-refused", 5),
    "redirect-loop": Case(
        each(OF_BIG, redirect(f"/v2/some/image/blobs/{BIG.digest}")), "hangs", "timeout", 5, 8, 10**9, timeout=2
    ),
    "401-without-challenge": Case(
        each(OF_TAG, oci_error(401, "UNAUTHORIZED")), "fails", "unauthorized", 4, layer_requests=0
    ),
    "token-is-html": Case(token(html(200, "Log in")), "fails", "not-a-registry", 5, layer_requests=0),
    "token-is-missing": Case(token(Response(200, {}, b"{}")), "fails", "no-token", 5, layer_requests=0),
    "manifest-is-html": Case(each(OF_TAG, html(200, "Log in")), "fails", "malformed-document", 7, layer_requests=0),
    "403": Case(each(OF_TAG, oci_error(403, "DENIED")), "fails", "denied", 4, layer_requests=0),
    "404": Case(each(OF_TAG, oci_error(404, "MANIFEST_UNKNOWN")), "fails", "manifest-unknown", 3, layer_requests=0),
    "404-layer": Case(each(OF_BIG, oci_error(404, "BLOB_UNKNOWN")), "fails", "blob-unknown", 3, layer_requests=1),
}
