"""What a fetch needs and what of it is here: a pure value between resolving and fetching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import media_types
from micropod_img.errors import IntegrityError, UnsafeError, UnsupportedError
from micropod_img.oci import CONFIG_LIMIT, Descriptor, Index, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from micropod_img.digest import Digest
    from micropod_img.pull.crane_errors import Request
    from micropod_img.pull.resolve import Document
    from micropod_img.store.blobs import BlobStore


@dataclass(frozen=True, slots=True)
class Plan:
    """One image, or one whole index, to be fetched.

    Attributes:
        root: What the registry is asked for, by digest.
        documents: Manifests and indexes, whose bytes are here already.
        images: Those of the documents that are images; of each the configuration is checked.
        configs: Configurations, each once.
        layers: Layers (and what else artifacts and indexes have), each once, bottom to top.
    """

    root: Document
    documents: tuple[Document, ...]
    images: tuple[Manifest, ...]
    configs: tuple[Descriptor, ...]
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Everything that is not a document."""
        return self.configs + self.layers

    def missing(self, blobs: BlobStore) -> tuple[Descriptor, ...]:
        """Return what the store does not have."""
        return tuple(blob for blob in self.blobs if not blobs.has(blob.digest, blob.size))


def plan_image(document: Document, request: Request) -> Plan:
    """Plan the fetch of one image.

    Raises:
        UnsupportedError: It is an artifact, or has something that cannot become files.
    """
    return _plan(document, (document,), request)


def plan_index(index: Document, descendants: Sequence[Document], request: Request) -> Plan:
    """Plan the fetch of a whole index.

    Args:
        index: The index.
        descendants: Everything that it leads to, itself first.
        request: The reference in words, for errors.

    Raises:
        UnsupportedError: None of it is an image, or one has something that cannot become files.
    """
    return _plan(index, tuple(descendants), request)


def _plan(root: Document, documents: tuple[Document, ...], request: Request) -> Plan:
    manifests = [document.parsed for document in documents if isinstance(document.parsed, Manifest)]
    if isinstance(root.parsed, Manifest) and root.parsed.is_image:
        _refuse_unknown_layers(root.parsed, request)
    images = tuple(manifest for manifest in manifests if _is_image(manifest))
    if not images:
        raise _no_image(manifests, request)
    configs = _once(manifest.config for manifest in manifests)
    others = [blob for document in documents for blob in _others(document.parsed)]
    layers = _once([*(layer for manifest in manifests for layer in manifest.layers), *others])
    of_manifests = [blob for manifest in manifests for blob in (manifest.config, *manifest.layers)]
    _refuse_two_sizes([*of_manifests, *others], request)
    for config in configs:
        if config.size > CONFIG_LIMIT:
            raise config_too_large(request)
    for blob in configs + layers:
        if not blob.digest.startswith("sha256:"):
            raise UnsupportedError(
                f"{request.ref} has a blob with the digest {blob.digest}, and crane knows sha256 digests only",
                code="digest-unsupported",
                stage="resolve",
                endpoint=request.endpoint,
            )
    known = {config.digest for config in configs}
    return Plan(root, documents, images, configs, tuple(layer for layer in layers if layer.digest not in known))


def _others(document: Manifest | Index) -> Iterator[Descriptor]:
    """Yield what an index lists that is neither manifest nor index; crane fetches it as a blob."""
    for descriptor in document.manifests if isinstance(document, Index) else ():
        if not is_document(descriptor):
            yield descriptor


def is_document(descriptor: Descriptor) -> bool:
    """Whether a descriptor of an index is one of a manifest or an index; one that names no type is taken for one."""
    return descriptor.media_type in media_types.INDEXES | media_types.MANIFESTS | {""}


def _is_image(manifest: Manifest) -> bool:
    # An attestation has an image's configuration, and layers that are no tar (buildkit, attestation-storage.md).
    return manifest.is_image and (
        not manifest.layers or any(layer.media_type in media_types.LAYERS for layer in manifest.layers)
    )


def _refuse_unknown_layers(manifest: Manifest, request: Request) -> None:
    for layer in manifest.layers:
        if layer.media_type not in media_types.LAYERS:
            raise UnsupportedError(
                f"{request.ref} has a layer of type {layer.media_type!r}, which cannot become files",
                code="layer-unsupported",
                stage="resolve",
                endpoint=request.endpoint,
            )


def _refuse_two_sizes(blobs: Iterable[Descriptor], request: Request) -> None:
    sizes: dict[Digest, int] = {}
    for blob in blobs:
        if sizes.setdefault(blob.digest, blob.size) != blob.size:
            raise IntegrityError(
                f"{request.ref} says two sizes of {blob.digest}: {sizes[blob.digest]} bytes and {blob.size}",
                code="size-mismatch",
                hint="the image is broken; ask its publisher to push it again",
                stage="resolve",
                endpoint=request.endpoint,
            )


def config_too_large(request: Request) -> UnsafeError:
    """Return the error for a configuration that is over the limit."""
    return UnsafeError(
        f"the configuration of {request.ref} is larger than {CONFIG_LIMIT >> 20} MiB",
        code="config-too-large",
        hint="no real image needs that; do not use it",
        stage="resolve",
        endpoint=request.endpoint,
    )


def _no_image(manifests: Sequence[Manifest], request: Request) -> UnsupportedError:
    first = manifests[0] if manifests else None
    kind = (first.artifact_type or first.config.media_type) if first else "an empty index"
    return UnsupportedError(
        f"{request.ref} is an artifact ({kind}), not a container image",
        code="not-an-image",
        hint="micropod-img crane, or oras, can fetch artifacts",
        stage="resolve",
        endpoint=request.endpoint,
    )


def _once(descriptors: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    distinct: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        distinct.setdefault(descriptor.digest, descriptor)
    return tuple(distinct.values())
