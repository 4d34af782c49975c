from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from micropod_img.platforms import Platform
from micropod_img.render.images import image_details, image_table, matching
from micropod_img.render.style import Style
from tests.render.values import NOW, digest, image

ALPINE = image("docker.io/library/alpine:3.20", "aa")
ALPINE_EDGE = image("docker.io/library/alpine:edge", "ab")
TEAM = image("docker.io/team/app:1", "ba")
QUAY = image("quay.io/team/app:1.2", "ca", index_digits="cb")
PORT = image("localhost:5000/app:1", "da")
PINNED = image(f"quay.io/team/base@{digest('ea')}", "ea")
BOTH = image(f"quay.io/team/both:2@{digest('fa')}", "fa")
UNNAMED = image("", "99")
ALL = (ALPINE, ALPINE_EDGE, TEAM, QUAY, PORT, PINNED, BOTH, UNNAMED)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("alpine", [ALPINE, ALPINE_EDGE]),
        ("alpine:edge", [ALPINE_EDGE]),
        ("library/alpine:edge", [ALPINE_EDGE]),
        ("docker.io/alpine", [ALPINE, ALPINE_EDGE]),
        ("index.docker.io/library/alpine", [ALPINE, ALPINE_EDGE]),
        ("docker.io/library/alpine:3.20", [ALPINE]),
        ("docker.io", [ALPINE, ALPINE_EDGE, TEAM]),
        ("team", [TEAM]),
        ("team/app", [TEAM]),
        ("quay.io", [QUAY, PINNED, BOTH]),
        ("quay.io/", [QUAY, PINNED, BOTH]),
        ("quay.io/team", [QUAY, PINNED, BOTH]),
        ("quay.io/team/app:1", []),
        ("quay.io/team/app:1.2", [QUAY]),
        ("quay.io/team/base", [PINNED]),
        (f"quay.io/team/base@{digest('ea')}", [PINNED]),
        ("quay.io/team/both", [BOTH]),
        ("quay.io/team/both:2", [BOTH]),
        ("localhost:5000", [PORT]),
        ("localhost", [PORT]),
        ("localhost:5000/app", [PORT]),
        ("al", []),
        ("app", []),
        ("al*", [ALPINE, ALPINE_EDGE]),
        ("*app*", [TEAM, PORT, QUAY]),
        ("*/app:1", [TEAM, PORT]),
        ("alpine:[0-9]*", [ALPINE]),
        ("quay.io/*/app", [QUAY]),
        ("quay.io/team/app:1.?", [QUAY]),
        ("*", [ALPINE, ALPINE_EDGE, TEAM, PORT, QUAY, PINNED, BOTH]),
        ("<none>", [UNNAMED]),
        ("sha256:aa", [ALPINE]),
        ("sha256:cb", [QUAY]),
        ("sha256:", [*ALL]),
        ("UPPER", []),
        ("", []),
    ],
)
def test_a_filter_fits(text: str, found: list[object]) -> None:
    assert {one.ref for one in matching(ALL, [text])} == {one.ref for one in ALL if one in found}


def test_several_filters_fit_what_one_of_them_fits() -> None:
    assert matching(ALL, ["team/app", "localhost"]) == [TEAM, PORT]


def test_images_are_ordered_by_reference_and_platform_and_the_unnamed_are_last() -> None:
    arm = replace(ALPINE, platform=Platform("linux", "arm64"))
    assert matching([UNNAMED, TEAM, arm, ALPINE_EDGE, ALPINE], []) == [ALPINE, arm, ALPINE_EDGE, TEAM, UNNAMED]


def test_the_table_has_familiar_references_and_short_digests() -> None:
    assert image_table([ALPINE, UNNAMED], NOW, Style()).splitlines() == [
        "REFERENCE    PLATFORM        SIZE  AGE      DIGEST",
        "alpine:3.20  linux/amd64  1.0 MiB  4 weeks  aa0000000000",
        "<none>       linux/amd64  1.0 MiB  4 weeks  990000000000",
    ]


def test_the_table_has_whole_digests_if_asked() -> None:
    row = image_table([ALPINE], NOW, Style(), digests=True).splitlines()[1]
    assert row == f"alpine:3.20  linux/amd64  1.0 MiB  4 weeks  {ALPINE.digest}"


def test_nothing_in_the_table_is_shortened_if_asked() -> None:
    row = image_table([ALPINE], NOW, Style(), no_trunc=True).splitlines()[1]
    assert row == f"docker.io/library/alpine:3.20  linux/amd64  1.0 MiB  2024-05-01T00:00:00Z  {ALPINE.digest}"


def test_an_image_that_does_not_say_when_it_was_made_has_no_age() -> None:
    row = image_table([replace(ALPINE, created=None)], NOW, Style()).splitlines()[1]
    assert row.split()[4] == "-"


def test_how_go_writes_a_time_that_was_not_set_is_no_time() -> None:
    details = image_details(replace(ALPINE, created=datetime(1, 1, 1, tzinfo=UTC)), NOW, Style())
    assert "Created     -" in details.splitlines()


def test_a_platform_from_a_registry_is_made_harmless() -> None:
    odd = replace(ALPINE, platform=Platform("linux\x1b[31m", "amd64"))
    assert "\x1b" not in image_table([odd], NOW, Style())
    assert "\x1b" not in image_details(odd, NOW, Style())


def test_the_details_are_all_that_is_known() -> None:
    assert image_details(QUAY, NOW, Style()).splitlines() == [
        "Reference   quay.io/team/app:1.2",
        f"Digest      {QUAY.digest}",
        f"Index       {QUAY.index_digest}",
        f"Config      {QUAY.config_digest}",
        "Media type  application/vnd.oci.image.manifest.v1+json",
        "Platform    linux/amd64",
        "Size        1.0 MiB (1048576 bytes)",
        "Created     2024-05-01T00:00:00Z (4 weeks ago)",
        "Pulled      2024-06-01T11:59:59Z (1 second ago)",
        "Last used   2024-06-01T12:00:00Z (moments ago)",
        "Layers      1, the lowest first",
        "     SIZE  DIGEST                                                                   MEDIA TYPE",
        f"  1.0 MiB  {digest('a')}  application/vnd.oci.image.layer.v1.tar+gzip",
    ]


def test_what_is_not_known_is_a_dash() -> None:
    bare = replace(
        UNNAMED, created=None, pulled_at=None, layer_details=(), last_used_at=datetime(1970, 1, 1, tzinfo=UTC)
    )
    lines = dict(line.split(maxsplit=1) for line in image_details(bare, NOW, Style()).splitlines())
    assert (lines["Reference"], lines["Index"], lines["Created"], lines["Pulled"]) == ("<none>", "-", "-", "-")
    assert lines["Layers"] == "none"
    assert lines["Last"] == "used   1970-01-01T00:00:00Z (54 years ago)"
