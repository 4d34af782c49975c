"""Images, indexes and other documents of registries, made in memory: the ordinary ones, and those that lie."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.support.layers import MIB, Blob, Layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"

LINUX_AMD64 = "linux/amd64"
CREATED = "2024-02-29T12:00:00Z"


@dataclass(frozen=True)
class Manifest(Blob):
    """A document that a registry serves under ``/manifests/``, with everything below it.

    ``platform`` and ``annotations`` are what an index says of it; ``children`` are an index's own.
    """

    config: Blob | None = None
    layers: tuple[Layer, ...] = ()
    children: tuple[Manifest, ...] = ()
    platform: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> dict[str, object]:
        extra: dict[str, object] = {}
        if self.platform is not None:
            extra["platform"] = platform_object(self.platform)
        if self.annotations:
            extra["annotations"] = dict(self.annotations)
        return super().descriptor | extra

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The documents below this one, each once, children before their parents."""
        found: dict[str, Manifest] = {}
        for child in self.children:
            found |= {each.digest: each for each in (*child.manifests, child)}
        return tuple(found.values())

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Configurations and layers of this document and all below it, each once."""
        return tuple({blob.digest: blob for each in (*self.manifests, self) for blob in each.own_blobs()}.values())

    def own_blobs(self) -> Iterator[Blob]:
        if self.config is not None:
            yield self.config
        yield from self.layers


def image(
    layers: Sequence[Layer] = (),
    *,
    docker: bool = False,
    platform: str = LINUX_AMD64,
    config: Mapping[str, object] | None = None,
    diff_ids: Sequence[str] | None = None,
    annotations: Mapping[str, str] | None = None,
    fields: Mapping[str, object] | None = None,
) -> Manifest:
    """Make an image of layers, bottom to top.

    Args:
        layers: May be none, and the same one may stand there twice.
        docker: Docker's media types for manifest and config; the layers have their own.
        platform: ``os/architecture[/variant]``, for the config and for an index above.
        config: Fields that replace those of the config document, such as ``{"config": {"User": "nobody"}}``.
        diff_ids: Instead of the layers' own: fewer, more or wrong ones.
        annotations: Of the manifest.
        fields: Fields that replace or join those of the manifest.
    """
    stated = [layer.diff_id for layer in layers] if diff_ids is None else list(diff_ids)
    described = {
        **platform_object(platform),
        "created": CREATED,
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": stated},
        "history": [{"created": CREATED, "created_by": f"layer {number}"} for number in range(len(layers))],
        **(config or {}),
    }
    return _manifest(
        Blob(DOCKER_CONFIG if docker else OCI_CONFIG, _json(described)),
        layers,
        media_type=DOCKER_MANIFEST if docker else OCI_MANIFEST,
        platform=platform,
        fields={**({"annotations": dict(annotations)} if annotations else {}), **(fields or {})},
    )


def index(
    children: Sequence[Manifest],
    *,
    docker: bool = False,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    fields: Mapping[str, object] | None = None,
) -> Manifest:
    """Make an index (a manifest list) of images or of other indexes.

    Args:
        children: In this order.
        docker: Docker's media type, not OCI's.
        overrides: By a child's digest: what its descriptor says instead, such as ``{"size": 1}``.
        fields: Fields that replace or join those of the index.
    """
    listed = [{**child.descriptor, **(overrides or {}).get(child.digest, {})} for child in children]
    media_type = DOCKER_LIST if docker else OCI_INDEX
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": listed, **(fields or {})}
    return Manifest(media_type, _json(document), children=tuple(children))


def attestation(subject: Manifest) -> Manifest:
    """Make what BuildKit puts beside an image in its index: a manifest for no platform that holds statements."""
    statement = {"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"digest": subject.digest}]}
    content = _json(statement)
    blob = Blob("application/vnd.in-toto+json", content)
    layer = Layer(blob.media_type, content, diff_id=blob.digest)
    annotations = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(subject.digest),
    }
    return replace(image([layer], platform="unknown/unknown"), annotations=annotations)


def artifact(
    content: bytes = b"apiVersion: v2\n",
    *,
    config_type: str = "application/vnd.cncf.helm.config.v1+json",
    layer_type: str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
) -> Manifest:
    """Make something that is no image, as ORAS and Helm push it; ``config_type`` may be `OCI_EMPTY`."""
    config = Blob(config_type, b"{}")
    blob = Blob(layer_type, content)
    layer = Layer(layer_type, content, diff_id=blob.digest)
    fields = {"artifactType": "application/vnd.example.thing"} if config_type == OCI_EMPTY else {}
    return _manifest(config, [layer], media_type=OCI_MANIFEST, platform=None, fields=fields)


def ambiguous(subject: Manifest, listed: Manifest, *, media_type: str = OCI_MANIFEST) -> Manifest:
    """Make a document that is a manifest and an index at once (CVE-2021-41190)."""
    document = {**json.loads(listed.content), **json.loads(subject.content), "mediaType": media_type}
    return replace(subject, media_type=media_type, content=_json(document), children=listed.children)


def oversized(layers: Sequence[Layer] = (), *, size: int = 4 * MIB + 1) -> Manifest:
    """Make an image whose manifest is padded to exactly so many bytes."""
    missing = size - image(layers, annotations={"padding": "."}).size + 1
    return image(layers, annotations={"padding": "." * missing})


def schema_1(layers: Sequence[Layer], *, repository: str = "old/image", tag: str = "latest") -> Manifest:
    """Make a Docker schema 1 document; it looks signed, by a key that nobody has."""
    history = {"id": "0" * 64, "created": CREATED, "architecture": "amd64", "os": "linux"}
    document = {
        "schemaVersion": 1,
        "name": repository,
        "tag": tag,
        "architecture": "amd64",
        "fsLayers": [{"blobSum": layer.digest} for layer in reversed(layers)],
        "history": [{"v1Compatibility": json.dumps(history)} for _ in layers],
    }
    unsigned = json.dumps(document, indent=3).encode()
    # The signature covers the document up to the closing brace; libtrust's "formatLength" and "formatTail" say where.
    protected = {"formatLength": len(unsigned) - 2, "formatTail": _base64(b"\n}"), "time": CREATED}
    signature = {
        "header": {
            "jwk": {"crv": "P-256", "kty": "EC", "x": _base64(bytes(32)), "y": _base64(bytes(32))},
            "alg": "ES256",
        },
        "signature": _base64(bytes(64)),
        "protected": _base64(json.dumps(protected).encode()),
    }
    signed = unsigned[:-2] + b',\n   "signatures": ' + json.dumps([signature]).encode() + b"\n}"
    return Manifest(DOCKER_SCHEMA_1, signed, layers=tuple(layers))


def platform_object(platform: str) -> dict[str, str]:
    """Return the OCI form of ``os/architecture[/variant]``."""
    return dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))


def _manifest(
    config: Blob, layers: Sequence[Layer], *, media_type: str, platform: str | None, fields: Mapping[str, object]
) -> Manifest:
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
        **fields,
    }
    return Manifest(media_type, _json(document), config=config, layers=tuple(layers), platform=platform)


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
