from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import TYPE_CHECKING, TypeAlias, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from micropod_img import media_types
from micropod_img.errors import IntegrityError, MicropodError, UnsafeError, UnsupportedError
from micropod_img.oci import CONFIG_LIMIT, ImageConfig, Index, Manifest, parse_config, parse_document
from micropod_img.platforms import Platform
from tests.support import images
from tests.support.layers import layer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

BASE = layer({"etc/motd": b"base"})
IMAGE = images.image([BASE])
INDEX = images.index([IMAGE, images.image([BASE], platform="linux/arm64/v8")])
DIGEST = "sha256:" + "0" * 64
LONG_S = "\N{LATIN SMALL LETTER LONG S}"
DESCRIPTOR: Mapping[str, Json] = {"mediaType": media_types.OCI_CONFIG, "digest": DIGEST, "size": 2}


def parse(content: bytes | str) -> Manifest | Index:
    return parse_document(content if isinstance(content, bytes) else content.encode(), name="example.com/app:1")


def config_of(content: bytes | str) -> ImageConfig:
    return parse_config(content if isinstance(content, bytes) else content.encode(), name="example.com/app:1")


def manifest(**members: Json) -> bytes:
    """A manifest with members that replace or join the usual ones."""
    usual: dict[str, Json] = {"schemaVersion": 2, "config": dict(DESCRIPTOR), "layers": [dict(DESCRIPTOR)]}
    return json.dumps({**usual, **members}).encode()


def with_layer(**members: Json) -> bytes:
    """A manifest whose layer has members that replace or join the usual ones."""
    return manifest(layers=[{**DESCRIPTOR, **members}])


def index(**members: Json) -> bytes:
    """An index whose one descriptor has members that replace or join the usual ones."""
    return json.dumps({"schemaVersion": 2, "manifests": [{**DESCRIPTOR, **members}]}).encode()


def repeated(document: bytes, key: str, value: Json = None) -> bytes:
    """The document with a member added at its end, whatever it has already."""
    return document.rstrip()[:-1] + f", {json.dumps(key, ensure_ascii=False)}: {json.dumps(value)}}}".encode()


# What is read


@pytest.mark.parametrize("docker", [False, True], ids=["OCI", "Docker"])
def test_a_manifest_is_read_from_its_exact_bytes(docker: bool) -> None:  # noqa: FBT001
    made = images.image([BASE, BASE], docker=docker)
    read = parse(made.content)
    assert isinstance(read, Manifest)
    assert read.is_image
    assert made.config is not None
    assert (read.config.digest, read.config.size) == (made.config.digest, made.config.size)
    assert [(each.digest, each.size, each.media_type) for each in read.layers] == [
        (BASE.digest, BASE.size, BASE.media_type)
    ] * 2


@pytest.mark.parametrize("docker", [False, True], ids=["OCI", "Docker"])
def test_an_index_is_read_with_the_platforms_it_names(docker: bool) -> None:  # noqa: FBT001
    made = images.index([images.image([BASE], platform="linux/arm64/v8")], docker=docker)
    read = parse(made.content)
    assert isinstance(read, Index)
    (only,) = read.manifests
    assert only.platform is not None
    assert only.platform.value() == Platform(os="linux", architecture="arm64", variant="v8")


def test_a_windows_version_is_read_from_an_index() -> None:
    read = parse(index(platform={"os": "windows", "architecture": "amd64", "os.version": "10.0.1", "os.features": []}))
    assert isinstance(read, Index)
    assert read.manifests[0].platform is not None
    assert read.manifests[0].platform.value().os_version == "10.0.1"


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(manifest(layers=None), id="null layers"),
        pytest.param(manifest(layers=[]), id="no layers"),
        pytest.param(with_layer(urls=None), id="null urls"),
        pytest.param(with_layer(urls=["https://example.com/x"]), id="urls"),
        pytest.param(with_layer(platform=None), id="null platform"),
        pytest.param(with_layer(annotations={"A": "1", "a": "2"}), id="annotations that differ in case"),
        pytest.param(with_layer(annotations={"digest": "1", "Digest": "2"}), id="annotations named as members are"),
        pytest.param(with_layer(size=(1 << 63) - 1), id="the largest size"),
        pytest.param(with_layer(size=0), id="nothing in it"),
        pytest.param(with_layer(digest="sha512:" + "0" * 128), id="sha512"),
        pytest.param(with_layer(data="aGk=", future={"deep": [1, 2.5, None, True]}), id="members of the future"),
        pytest.param(manifest(subject=dict(DESCRIPTOR), mediaType=media_types.OCI_MANIFEST), id="a subject"),
        pytest.param(manifest(annotations={"config": "1", "CONFIG": "2"}), id="annotations of the manifest"),
        pytest.param(b'\n {"schemaVersion":2,"manifests":null}\n', id="null manifests, and space around"),
    ],
)
def test_what_go_tools_write_and_mean_is_read(document: bytes) -> None:
    parse(document)


@pytest.mark.parametrize(
    "made", [images.artifact(), images.artifact(config_type=images.OCI_EMPTY)], ids=["Helm", "empty config"]
)
def test_an_artifact_is_read_and_is_no_image(made: images.Manifest) -> None:
    read = parse(made.content)
    assert isinstance(read, Manifest)
    assert not read.is_image


def test_an_image_of_500_layers_and_an_artifact_of_more_are_read() -> None:
    assert isinstance(parse(images.image([BASE] * 500).content), Manifest)
    artifact = images.image([BASE] * 501, fields={"config": {**DESCRIPTOR, "mediaType": images.OCI_EMPTY}})
    assert isinstance(parse(artifact.content), Manifest)


def test_a_manifest_of_exactly_four_mebibytes_is_read() -> None:
    assert isinstance(parse(images.oversized([BASE], size=media_types.MANIFEST_LIMIT).content), Manifest)


# What is refused


REFUSED = [
    # Other formats
    pytest.param(images.schema_1([BASE]).content, UnsupportedError, "schema-1", id="schema 1"),
    pytest.param(b'{"schemaVersion": 1}', UnsupportedError, "schema-1", id="schema 1, bare"),
    pytest.param(
        manifest(mediaType="application/vnd.docker.distribution.manifest.v1+json"),
        UnsupportedError,
        "schema-1",
        id="schema 1 by media type",
    ),
    pytest.param(b"{}", UnsupportedError, "not-an-image", id="an empty object"),
    pytest.param(b'{"schemaVersion": 2}', UnsupportedError, "not-an-image", id="neither manifest nor index"),
    pytest.param(b'{"errors": [{"code": "X"}]}', UnsupportedError, "not-an-image", id="a registry's error"),
    pytest.param(
        b'{"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}',
        UnsupportedError,
        "not-an-image",
        id="an ORAS artifact manifest",
    ),
    # Ambiguous: tools would see different images (CVE-2021-41190)
    *(
        pytest.param(
            images.ambiguous(IMAGE, INDEX, media_type=media_type).content, UnsafeError, "ambiguous-manifest", id=name
        )
        for name, media_type in {
            "layers and manifests, called a manifest": media_types.OCI_MANIFEST,
            "layers and manifests, called an index": media_types.OCI_INDEX,
            "layers and manifests, called a list": media_types.DOCKER_LIST,
        }.items()
    ),
    pytest.param(manifest(manifests=None), UnsafeError, "ambiguous-manifest", id="layers and null manifests"),
    pytest.param(
        b'{"schemaVersion": 2, "manifests": [], "config": null}',
        UnsafeError,
        "ambiguous-manifest",
        id="null config",
    ),
    pytest.param(
        b'{"schemaVersion": 2, "manifests": [], "fsLayers": []}', UnsafeError, "ambiguous-manifest", id="fsLayers"
    ),
    pytest.param(
        manifest(mediaType=media_types.OCI_INDEX), UnsafeError, "ambiguous-manifest", id="a manifest called an index"
    ),
    pytest.param(
        repeated(index(), "mediaType", media_types.DOCKER_MANIFEST),
        UnsafeError,
        "ambiguous-manifest",
        id="an index called a manifest",
    ),
    # Names that stand twice: decoders take the first, the last, or both
    *(
        pytest.param(repeated(document, key), UnsafeError, "ambiguous-manifest", id=f"{key} twice")
        for document, key in [
            (manifest(), "layers"),
            (manifest(), "config"),
            (manifest(), "schemaVersion"),
            (manifest(mediaType=media_types.OCI_MANIFEST), "mediaType"),
            (index(), "manifests"),
        ]
    ),
    *(
        pytest.param(
            manifest().replace(b'"size": 2}]', b'"size": 2, "%s": %s}]' % (key.encode(), value)),
            UnsafeError,
            "ambiguous-manifest",
            id=f"{key} of a layer twice",
        )
        for key, value in {"digest": b'"sha256:%s"' % (b"1" * 64), "size": b"3", "mediaType": b'""'}.items()
    ),
    # Names that Go reads as others
    *(
        pytest.param(repeated(document, key, []), UnsafeError, "ambiguous-manifest", id=f"{key} at the top")
        for document, key in [
            (manifest(), "Manifests"),
            (manifest(), "MANIFESTS"),
            (manifest(), "Layers"),
            (manifest(), "mediatype"),
            (manifest(), "schemaversion"),
            (manifest(), "fslayers"),
            (manifest(), f"manifest{LONG_S}"),
            (index(), "LAYERS"),
            (index(), f"layer{LONG_S}"),
            (index(), "Config"),
        ]
    ),
    *(
        pytest.param(document, UnsafeError, "ambiguous-manifest", id=f"{key} below")
        for key, document in {
            "Digest": with_layer(Digest=DIGEST),
            "SIZE": with_layer(SIZE=3),
            "a long s": manifest().replace(b'"size": 2}]', f'"size": 2, "{LONG_S}ize": 3}}]'.encode()),
            "URLs": with_layer(URLs=["https://example.com"]),
            "mediatype": with_layer(mediatype="x"),
            "Platform": index(Platform={"os": "linux"}),
            "Architecture": index(platform={"os": "linux", "architecture": "amd64", "Architecture": "arm64"}),
            "OS": index(platform={"OS": "linux"}),
        }.items()
    ),
    # Not what a manifest may be
    pytest.param(with_layer(size=-1), IntegrityError, "malformed-document", id="a negative size"),
    pytest.param(with_layer(size=2.0), IntegrityError, "malformed-document", id="a float as size"),
    pytest.param(with_layer(size="2"), IntegrityError, "malformed-document", id="a string as size"),
    pytest.param(with_layer(size=True), IntegrityError, "malformed-document", id="a boolean as size"),
    pytest.param(with_layer(size=None), IntegrityError, "malformed-document", id="a null as size"),
    pytest.param(with_layer(size=1 << 63), IntegrityError, "malformed-document", id="a size over 63 bits"),
    pytest.param(
        manifest().replace(b'"size": 2', b'"size": 1e3'), IntegrityError, "malformed-document", id="an exponent as size"
    ),
    pytest.param(
        manifest().replace(b'"size": 2', b'"size": ' + b"9" * 5000),
        IntegrityError,
        "malformed-document",
        id="a size of 5000 digits",
    ),
    *(
        pytest.param(
            with_layer(digest=cast("Json", digest)), IntegrityError, "malformed-document", id=f"{digest!r:.30}"
        )
        for digest in [
            "sha256:../../../../etc/passwd",
            "sha256:" + "../" * 21 + "a",
            "/etc/passwd",
            "sha256:" + "0" * 63,
            "sha256:" + "A" * 64,
            DIGEST + "\n",
            "md5:" + "0" * 32,
            "",
            "\ud800",
            None,
            7,
            ["sha256"],
        ]
    ),
    pytest.param(manifest(config=None), IntegrityError, "malformed-document", id="a null config"),
    pytest.param(manifest(config=[]), IntegrityError, "malformed-document", id="a list as config"),
    pytest.param(manifest(layers={}), IntegrityError, "malformed-document", id="an object as layers"),
    pytest.param(manifest(layers="x"), IntegrityError, "malformed-document", id="a string as layers"),
    pytest.param(manifest(layers=[None]), IntegrityError, "malformed-document", id="a null layer"),
    pytest.param(manifest(layers=[[]]), IntegrityError, "malformed-document", id="a list as layer"),
    pytest.param(manifest(schemaVersion=3), IntegrityError, "malformed-document", id="schema 3"),
    pytest.param(manifest(schemaVersion="2"), IntegrityError, "malformed-document", id="a string as schema"),
    pytest.param(manifest(schemaVersion=None), IntegrityError, "malformed-document", id="a null as schema"),
    pytest.param(manifest(mediaType=7), IntegrityError, "malformed-document", id="a number as media type"),
    pytest.param(manifest(mediaType=[]), IntegrityError, "malformed-document", id="a list as media type"),
    pytest.param(manifest(mediaType={"a": []}), IntegrityError, "malformed-document", id="an object as media type"),
    pytest.param(with_layer(mediaType="\ud800"), IntegrityError, "malformed-document", id="half a surrogate pair"),
    pytest.param(index(platform="linux/amd64"), IntegrityError, "malformed-document", id="a string as platform"),
    pytest.param(index(platform={"os": 7}), IntegrityError, "malformed-document", id="a number as os"),
    pytest.param(b'{"schemaVersion":2,"config":{}}', IntegrityError, "malformed-document", id="an empty config"),
    # Not JSON
    *(
        pytest.param(content, IntegrityError, "malformed-document", id=name)
        for name, content in {
            "nothing": b"",
            "space": b" \n",
            "cut short": manifest()[:-1],
            "two documents": manifest() + manifest(),
            "HTML": b"<html>404</html>",
            "a list": b"[]",
            "a string": b'"layers"',
            "null": b"null",
            "invalid UTF-8": manifest(annotations={"a": "?"}).replace(b"?", b"\xff"),
            "an encoded surrogate": manifest(annotations={"a": "?"}).replace(b"?", b"\xed\xa0\x80"),
            "a byte order mark": b"\xef\xbb\xbf" + manifest(),
            "UTF-16": manifest().decode().encode("utf-16"),
            "UTF-32": manifest().decode().encode("utf-32-le"),
            "NaN": manifest().replace(b'"size": 2', b'"size": NaN'),
            "NaN elsewhere": repeated(manifest(), "x").replace(b'"x": null', b'"x": NaN'),
            "infinity": repeated(manifest(), "x").replace(b'"x": null', b'"x": -Infinity'),
            "a comment": b"// manifest\n" + manifest(),
            "a comma too many": manifest().replace(b'"size": 2}', b'"size": 2,}'),
            "a NUL": manifest() + b"\0",
            "a control character in a string": manifest(annotations={"a": "?"}).replace(b"?", b"\x01"),
            "deep lists": b"[" * 100_000,
            "deep lists in a member": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        }.items()
    ),
    # Too much
    pytest.param(images.oversized([BASE]).content, UnsafeError, "manifest-too-large", id="over 4 MiB"),
    pytest.param(images.image([BASE] * 501).content, UnsafeError, "too-many-layers", id="501 layers"),
    pytest.param(b" " * (media_types.MANIFEST_LIMIT + 1), UnsafeError, "manifest-too-large", id="4 MiB of nothing"),
]


@pytest.mark.parametrize(("content", "kind", "code"), REFUSED)
def test_a_document_is_refused(content: bytes, kind: type[MicropodError], code: str) -> None:
    with pytest.raises(MicropodError) as raised:
        parse(content)
    assert (type(raised.value), raised.value.code) == (kind, code)
    assert "example.com/app:1" in raised.value.message
    assert len(raised.value.message) < 500
    assert raised.value.message.isprintable()


def test_the_member_that_is_wrong_is_named() -> None:
    with pytest.raises(IntegrityError, match=r"^example.com/app:1 is malformed: layers\.0\.size: "):
        parse(with_layer(size=-1))


def test_many_wrong_members_cost_no_more_than_one() -> None:
    content = b'{"schemaVersion":2,"config":%s,"layers":[%s1]}' % (json.dumps(DESCRIPTOR).encode(), b"1," * 200_000)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError) as raised:
            parse(content)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert len(raised.value.detail or "") < 2000


# Configurations


def test_a_configuration_says_platform_diff_ids_and_time() -> None:
    made = images.image([BASE, BASE], platform="linux/arm/v7")
    assert made.config is not None
    read = config_of(made.config.content)
    assert read.platform == Platform(os="linux", architecture="arm", variant="v7")
    assert read.rootfs.diff_ids == (BASE.diff_id, BASE.diff_id)
    assert read.created == images.CREATED


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("{}", id="nothing"),
        pytest.param('{"rootfs": {"type": "layers", "diff_ids": null}}', id="null diff IDs"),
        pytest.param('{"created": null}', id="null time"),
        pytest.param('{"config": {"Labels": {"os": "a", "OS": "b", "Rootfs": "c"}}}', id="labels that differ in case"),
        pytest.param('{"container_config": {}, "docker_version": "1.6", "Size": 0, "id": "x"}', id="old Docker's"),
    ],
)
def test_configurations_of_real_tools_are_read(content: str) -> None:
    config_of(content)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param("", IntegrityError, id="nothing"),
        pytest.param("[]", IntegrityError, id="a list"),
        pytest.param("null", IntegrityError, id="null"),
        pytest.param('{"architecture": 7}', IntegrityError, id="a number as architecture"),
        pytest.param(r'{"variant": "\ud800"}', IntegrityError, id="half a surrogate pair"),
        pytest.param('{"rootfs": []}', IntegrityError, id="a list as rootfs"),
        pytest.param('{"rootfs": {"diff_ids": ["sha256:../../x"]}}', IntegrityError, id="a path as diff ID"),
        pytest.param('{"rootfs": {"diff_ids": [7]}}', IntegrityError, id="a number as diff ID"),
        pytest.param('{"rootfs": {"diff_ids": {}}}', IntegrityError, id="an object as diff IDs"),
        pytest.param('{"x": NaN}', IntegrityError, id="NaN"),
        pytest.param("[" * 100_000, IntegrityError, id="deep lists"),
        pytest.param(b'{"os": "\xff"}', IntegrityError, id="invalid UTF-8"),
        pytest.param('{"rootfs": {}, "RootFS": {}}', UnsafeError, id="two root filesystems"),
        pytest.param('{"rootfs": {}, "rootfs": {}}', UnsafeError, id="rootfs twice"),
        pytest.param(f'{{"Rootf{LONG_S}": {{}}}}', UnsafeError, id="rootfs for Go alone"),
        pytest.param('{"rootfs": {"diff_ids": [], "Diff_IDs": []}}', UnsafeError, id="two lists of diff IDs"),
        pytest.param('{"os": "linux", "OS": "windows"}', UnsafeError, id="two systems"),
        pytest.param('{"config": {}, "Config": {"User": "root"}}', UnsafeError, id="two configurations to run with"),
    ],
)
def test_a_configuration_is_refused(content: bytes | str, kind: type[MicropodError]) -> None:
    with pytest.raises(MicropodError) as raised:
        config_of(content)
    assert type(raised.value) is kind
    assert "the configuration of example.com/app:1" in raised.value.message


def test_the_limits_are_those_of_the_distribution_spec_and_more_for_configurations() -> None:
    assert (media_types.MANIFEST_LIMIT, CONFIG_LIMIT) == (4 * 1024 * 1024, 8 * 1024 * 1024)


# Anything at all

PARSERS = pytest.mark.parametrize("parser", [parse, config_of], ids=["document", "configuration"])

NAMES = st.sampled_from(
    [
        *("schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "digest", "size", "urls"),
        *("platform", "os", "architecture", "variant", "os.version", "rootfs", "diff_ids", "created", "Layers", "x"),
    ]
)
LEAVES: st.SearchStrategy[Json] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([2, 1, DIGEST, *media_types.INDEXES, *media_types.MANIFESTS, *media_types.SCHEMA_1])
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=20
)


def refused_at_most(parser: Callable[[bytes], object], content: bytes) -> None:
    with contextlib.suppress(IntegrityError, UnsafeError, UnsupportedError):
        parser(content)


@PARSERS
@settings(deadline=None)
@given(content=st.binary())
def test_no_bytes_do_worse_than_being_refused(parser: Callable[[bytes], object], content: bytes) -> None:
    refused_at_most(parser, content)


@PARSERS
@settings(max_examples=300, deadline=None)
@given(document=VALUES)
@example(document={"mediaType": []})
@example(document={"schemaVersion": {}})
def test_no_json_does_worse_than_being_refused(parser: Callable[[bytes], object], document: Json) -> None:
    refused_at_most(parser, json.dumps(document).encode())


@PARSERS
@settings(max_examples=300, deadline=None)
@given(position=st.integers(min_value=0, max_value=2000), byte=st.integers(min_value=0, max_value=255))
def test_no_changed_byte_does_worse_than_being_refused(
    parser: Callable[[bytes], object], position: int, byte: int
) -> None:
    assert IMAGE.config is not None
    for content in (IMAGE.content, INDEX.content, IMAGE.config.content):
        changed = bytearray(content)
        changed[position % len(changed)] = byte
        refused_at_most(parser, bytes(changed))
