"""What each reader of `tests.support.readers` is meant to be given: the beginnings of bad inputs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.rootfs.archives import AMBIGUOUS, USUAL
from tests.rootfs.tar_layers import END
from tests.support.images import CREATED, ambiguous, artifact, image, index, schema_1
from tests.support.layers import layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LAYERS = [
    layer({"a": b"1" * 700, "b": b"2"}, compression=compression)
    for compression in ("gzip", "gzip-members", "estargz", "zstd", "zstd-chunked", "none")
]
_CONFIG = {"User": "nobody:9", "Env": ["A=1"], "Cmd": ["/bin/sh"], "WorkingDir": "/x", "Volumes": {"/v": {}}}
_IMAGE = image(_LAYERS[:2], config={"config": _CONFIG}, annotations={"org.opencontainers.image.title": "a"})
_DOCKER = image([layer({"a": b"1"}, docker=True)], docker=True)
_INDEX = index([_IMAGE, image(platform="linux/arm/v7")])
_DIGEST = str(_IMAGE.digest)
_POD = {
    "schema": 1,
    "id": "one",
    "ref": "docker.io/library/alpine:latest",
    "image_digest": _DIGEST,
    "chain_ids": [_DIGEST],
    "driver": "overlay",
    "read_only": False,
    "created_at": CREATED,
}
_DOCUMENTS = [
    _IMAGE.content,
    _DOCKER.content,
    _INDEX.content,
    ambiguous(_IMAGE, _INDEX).content,
    artifact().content,
    schema_1(_LAYERS[:1]).content,
]
_CONFIGS = [one.config.content for one in (_IMAGE, _DOCKER) if one.config is not None]
_LISTED = {
    "schemaVersion": 2,
    "manifests": [
        {
            **_IMAGE.descriptor,
            "annotations": {
                "org.opencontainers.image.ref.name": "docker.io/library/alpine:latest",
                "io.micropod.reference": "docker.io/library/alpine:latest",
            },
        }
    ],
}
_LOG = (
    "2024/02/29 12:00:00 --> GET https://registry.example.com/v2/\n"
    '2024/02/29 12:00:00 <-- 401 https://registry.example.com/v2/ (1ms)\nWww-Authenticate: Bearer realm="https://a/t"\n'
    "Error: fetching manifest registry.example.com/app:1: GET https://registry.example.com/v2/app/manifests/1: "
    "MANIFEST_UNKNOWN: manifest unknown; map[Tag:1]\n"
)
_REGISTRIES_CONF = """
unqualified-search-registries = ["docker.io"]
short-name-mode = "enforcing"
[[registry]]
prefix = "*.example.com"
location = "mirror.example.com/hub"
blocked = false
[[registry.mirror]]
location = "cache:5000"
insecure = true
pull-from-mirror = "digest-only"
[aliases]
"a" = "example.com/a"
"""
_AUTH_FILE = {
    "auths": {
        "registry.example.com": {"auth": "dXNlcjpwYXNz"},
        "https://index.docker.io/v1/": {"identitytoken": "token"},
    },
    "credHelpers": {"gcr.io": "gcloud"},
    "credsStore": "pass",
}

SEEDS: Mapping[str, Sequence[bytes]] = {
    "layer": [one + END for one in (*USUAL.values(), *AMBIGUOUS.values())] + [one.content for one in _LAYERS],
    "document": _DOCUMENTS,
    "config": _CONFIGS,
    "process config": _CONFIGS,
    "stored document": _DOCUMENTS,
    "stored config": _CONFIGS,
    "index.json": [json.dumps(_LISTED).encode(), _INDEX.content],
    "pod.json": [json.dumps(_POD).encode()],
    "reference": [
        b"alpine",
        b"registry.example.com:5000/team/app:1.0",
        b"[::1]:5000/a@" + _DIGEST.encode(),
        b"a_b.c/d",
    ],
    "pod id": [b"one", b"a.b-c_d", b"a..b"],
    "platform": [b"linux/arm/v7", b"windows(10.0.17763)/amd64", b"arm64", b"linux"],
    "digest": [_DIGEST.encode(), b"sha512:" + b"0" * 128],
    "users": [
        b"app:users\nroot:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\nusers:x:100:app\n",
        b"1000:0\n",
    ],
    "crane's log": [_LOG.encode()],
    "config file": [b'root = "~/images"\njobs = 4\nmax-size = "2G"\ninsecure-registries = ["localhost:5000"]\n'],
    "registries.conf": [_REGISTRIES_CONF.encode()],
    "auth file": [json.dumps(_AUTH_FILE).encode()],
}
