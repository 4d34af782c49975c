"""The grammar of distribution/reference: what its own tests state, property by property, and what users are told."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img.digest import Digest, parse_digest
from micropod_img.errors import InvalidReference
from micropod_img.reference import Reference

HEX64 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SHA256 = f"sha256:{HEX64}"
SHA384 = "sha384:" + "0123456789ab" * 8
SHA512 = "sha512:" + HEX64 * 2


def refusal(text: str) -> InvalidReference:
    with pytest.raises(InvalidReference) as raised:
        Reference.parse(text)
    return raised.value


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        # short names are Docker Hub's
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("library/alpine", "docker.io/library/alpine:latest"),
        ("grafana/loki", "docker.io/grafana/loki:latest"),
        ("docker.io/grafana/loki:3", "docker.io/grafana/loki:3"),
        ("library/team/app", "docker.io/library/team/app:latest"),
        ("library", "docker.io/library/library:latest"),
        ("docker.io/docker.io", "docker.io/library/docker.io:latest"),
        # the old name of Docker Hub
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine:3", "docker.io/library/alpine:3"),
        ("index.docker.io/grafana/loki", "docker.io/grafana/loki:latest"),
        ("index.docker.io:443/grafana/loki", "index.docker.io:443/grafana/loki:latest"),
        # other registries: no library/
        ("quay.io/app", "quay.io/app:latest"),
        ("registry.example.com/team/sub/app:v1", "registry.example.com/team/sub/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry:5000/app:1", "registry:5000/app:1"),
        ("192.0.2.7/app", "192.0.2.7/app:latest"),
        ("192.0.2.7:25000/team/app", "192.0.2.7:25000/team/app:latest"),
        ("[::1]/app", "[::1]/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[2001:db8::]:5000/app:1", "[2001:db8::]:5000/app:1"),
        ("[2001:DB8:1:2:3:4:5:6]/app", "[2001:DB8:1:2:3:4:5:6]/app:latest"),
        ("[abc]:99999999/app", "[abc]:99999999/app:latest"),  # the grammar does not count groups, nor ports
        ("xn--n3h.example/app:xn--n3h.example", "xn--n3h.example/app:xn--n3h.example"),
        ("a/b", "docker.io/a/b:latest"),
        ("r.example/a", "r.example/a:latest"),
        # uppercase makes a registry of a first component, and only of that
        ("Team/app", "Team/app:latest"),
        ("TEAM/app:X", "TEAM/app:X"),
        ("Docker.io/app", "Docker.io/app:latest"),
        ("Registry.Example.com:5000/app", "Registry.Example.com:5000/app:latest"),
        # without a slash, nothing is a registry
        ("example.com", "docker.io/library/example.com:latest"),
        ("example.com:5000", "docker.io/library/example.com:5000"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("192.0.2.7:80", "docker.io/library/192.0.2.7:80"),
        ("sha256:abc", "docker.io/library/sha256:abc"),
        (SHA256, f"docker.io/library/{SHA256}"),
        # separators in names
        ("a__b/c", "docker.io/a__b/c:latest"),
        ("a---b/c", "docker.io/a---b/c:latest"),
        ("foo/a.b_c-d", "docker.io/foo/a.b_c-d:latest"),
        ("foo/a_b.com:8080", "docker.io/foo/a_b.com:8080"),
        ("r.example/p--i.m--n.v---s--n", "r.example/p--i.m--n.v---s--n:latest"),
        # tags
        ("app:Latest", "docker.io/library/app:Latest"),
        ("app:_x.Y-1", "docker.io/library/app:_x.Y-1"),
        ("app:" + "t" * 128, "docker.io/library/app:" + "t" * 128),
        # digests: alone they get no tag, with a tag both stay
        (f"alpine@{SHA256}", f"docker.io/library/alpine@{SHA256}"),
        (f"alpine:3.20@{SHA256}", f"docker.io/library/alpine:3.20@{SHA256}"),
        (f"alpine:latest@{SHA256}", f"docker.io/library/alpine:latest@{SHA256}"),
        (f"[::1]:5000/app:1@{SHA256}", f"[::1]:5000/app:1@{SHA256}"),
        (f"localhost:5000@{SHA256}", f"docker.io/library/localhost:5000@{SHA256}"),
        (f"quay.io/app@{SHA384}", f"quay.io/app@{SHA384}"),
        (f"quay.io/app:1@{SHA512}", f"quay.io/app:1@{SHA512}"),
        # an image ID is no name, unless something shows that it is one
        (f"docker.io/{HEX64}", f"docker.io/library/{HEX64}:latest"),
        (f"library/{HEX64}", f"docker.io/library/{HEX64}:latest"),
        (f"{HEX64}:1", f"docker.io/library/{HEX64}:1"),
        (HEX64[:-1], f"docker.io/library/{HEX64[:-1]}:latest"),
        (HEX64 + "0", f"docker.io/library/{HEX64}0:latest"),
        # a first component that looks like a registry and cannot be one is path
        ("a_b.com/app", "a_b.com/app:latest"),
    ],
)
def test_a_reference_has_one_canonical_form(text: str, canonical: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == canonical
    assert Reference.parse(canonical) == reference


@pytest.mark.parametrize(
    ("text", "domain", "path", "tag", "digest"),
    [
        ("alpine", "docker.io", "library/alpine", "latest", None),
        ("[::1]:5000/team/app:1", "[::1]:5000", "team/app", "1", None),
        (f"quay.io/app@{SHA256}", "quay.io", "app", None, SHA256),
        (f"quay.io/app:1@{SHA512}", "quay.io", "app", "1", SHA512),
        ("Team/app", "Team", "app", "latest", None),
        ("test_com/app", "docker.io", "test_com/app", "latest", None),
        ("a_b.com/app", "", "a_b.com/app", "latest", None),
    ],
)
def test_a_reference_knows_its_parts(text: str, domain: str, path: str, tag: str | None, digest: str | None) -> None:
    reference = Reference.parse(text)
    assert (reference.domain, reference.path, reference.tag, reference.digest) == (domain, path, tag, digest)
    assert reference.name == (f"{domain}/{path}" if domain else path)


@pytest.mark.parametrize(
    "text",
    [
        # names
        "-app",
        "app-",
        "_app",
        "app_",
        ".app",
        "app.",
        "-team/app",
        "team-/app",
        "team/-app",
        "team/app-",
        "____/____",
        "_team/_app",
        "a..b/app",
        "a_.b/app",
        "a-.b/app",
        "a___b/app",
        "team///app",
        "docker.io/team///app",
        "team//app",
        "quay.io/.dots/app",
        "quay.io/two..dots/app",
        "quay.io/__app/x",
        "a^a",
        "aa/as$$^/aa",
        "app$",
        "team/APP",
        "APP",
        "APP:tag",
        "quay.io/team/App",
        "quay.io:5000/Team/app:tag",
        # registries
        "-quay.io/app",
        "quay-.io/app",
        "quay.-io/app",
        "quay.io-/app",
        "quay./app",
        ".quay/app",
        "quay.io:http/app",
        "quay.io:/app",
        "a_b.com:8080/app",
        "a__b:8080/app",
        "[2001:db8::1]",
        "[2001:db8::1]:5000",
        "[2001:db8::1]:tag",
        "2001:db8::1:5000/app",
        "[fe80::1%eth0]:5000/app",
        "[2001:db8:3:4::192.0.2.33]:5000/app",
        "[::1]5000/app",
        "[::1]::5000/app",
        "[]/app",
        "[::1/app",
        # tags
        ":tag",
        "app:",
        "quay.io/app:",
        "app:-tag",
        "app:.tag",
        "app:a~b",
        "app:a:b",
        "quay.io/app:a/b",
        "app:" + "t" * 129,
        # digests
        f"@{SHA256}",
        "app@",
        "app@bad",
        "app@2bad",
        "app:@" + SHA256,
        f"app@{SHA256}:tag",
        f"app@{SHA256}@{SHA256}",
        f"app@{HEX64}",
        f"app@{SHA256[:-1]}",
        f"app@{SHA256}0",
        "app@sha256:" + "f" * 34,
        "app@sha512:" + HEX64,
        "app@md5:" + "f" * 32,
        "app@invaliddigest:" + HEX64,
        "app@sha256+b64:" + HEX64,
        f"app@SHA256:{HEX64}",
        f"app@sha256:{HEX64.upper()}",
        f"app@sha256:{HEX64}/x",
        # paths and URLs
        "https://github.com/team/app",
        "docker://alpine",
        "/alpine",
        "./alpine",
        "../alpine",
        "docker.io/",
        "localhost/",
        "/",
        "//",
        # what Python's $, \w, \d and lower() would let through
        "alpine\n",
        "alpine:3\n",
        f"alpine@{SHA256}\n",
        "localhost\n/app",
        "alpine\x00",
        "alpine:\u0663",
        "registry:\u0665\u0660/app",
        "\uff41lpine",
        "alpine:\u00e9",
        "stra\u00dfe/app",
        "\u212adocker/app",
        "\ud800",
        HEX64 + "\n",
    ],
)
def test_what_the_grammar_rejects_is_refused(text: str) -> None:
    assert refusal(text).exit_status == 2


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("quay.io/" + "a" * 255, True),
        ("quay.io/" + "a" * 256, False),
        ("a" * 247, True),  # with the library/ that it gets, 255
        ("a" * 248, False),
        ("quay.io/" + "a/" * 127 + "a", True),
        ("quay.io/" + "a/" * 127 + "aa", False),
        ("a" * 300 + ".example/" + "a" * 255, True),
        ("quay.io/" + "a" * 255 + ":" + "t" * 128 + "@" + SHA512, True),
    ],
)
def test_the_limit_of_255_characters_is_on_the_path_alone(path: str, fits: bool) -> None:  # noqa: FBT001 - a table
    if fits:
        assert str(Reference.parse(path))
    else:
        assert "must not be more than 255 characters" in str(refusal(path))


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("", "it is empty", "alpine:3.20"),
        ("   ", "white space around it", "leave it out"),
        (" alpine", "white space around it", "leave it out"),
        ("alpine\n", "white space around it", "leave it out"),
        ("al pine", "contains a space", "REGISTRY"),
        ("al\x1b[31mpine", r"the character '\x1b'", "REGISTRY"),
        ("caf\u00e9", "the character '\u00e9'", "REGISTRY"),
        ("https://quay.io/app", "it starts with 'https://'", "leave out 'https://'"),
        ("docker://alpine", "it starts with 'docker://'", "leave out 'docker://'"),
        ("./image.tar", "path of a file", "REGISTRY"),
        ("quay.io/app/", "ends with a slash", "leave out the slash"),
        ("quay.io//app", "a part of its name is empty", "REGISTRY"),
        (HEX64, "an image ID, not a name", f"NAME@{SHA256}"),
        ("quay.io/Team/App", "repository name must be lowercase", "write 'team/app'"),
        ("Alpine", "repository name must be lowercase", "write 'alpine'"),
        ("quay.io/a&b", "'a&b' cannot be part of a repository name: '&' is not allowed", "a-z"),
        ("quay.io/-a", "must start and end with a letter or digit", None),
        ("quay.io/a..b", "one dot, one or two underscores, or dashes", None),
        ("[::1]:5000", "names a registry, but no repository", "REGISTRY/NAME"),
        ("::1:5000/app", "stands in square brackets", "[::1]:5000"),
        ("[fe80::1%eth0]/app", "zone", None),
        ("alpine:edge/app", "'edge' is not a port number", "REGISTRY/NAME:TAG"),
        ("a_b:5000/app", "a host name has no underscore", None),
        ("-quay.io/app", "'-quay.io' is not a registry", "REGISTRY"),
        ("alpine:", "no tag follows the colon", "latest"),
        ("alpine:" + "t" * 129, "must not be more than 128 characters, this one has 129", None),
        ("alpine:a~b", "'~' is not allowed in a tag", "letters, digits"),
        ("alpine:-x", "a tag does not start with '-'", "letter"),
        ("alpine@", "no digest follows the @", "sha256:<64 hex digits>"),
        ("alpine@latest", "'latest' is not a digest", "sha256:<64 hex digits>"),
        ("alpine@md5:" + "0" * 32, "digest algorithm 'md5' is not supported", "sha256, sha384, sha512"),
        ("alpine@sha256:abc", "a sha256 digest has 64 hex digits, this one has 3", None),
        ("alpine@sha256:" + "A" * 64, "written in 0-9 and a-f", "lowercase"),
        (f"alpine@{SHA256}/x", "a slash follows the @", "at the very end"),
    ],
)
def test_the_message_says_what_is_wrong_and_what_to_do(text: str, problem: str, hint: str | None) -> None:
    error = refusal(text)
    assert problem in str(error)
    assert error.code == "invalid-reference"
    assert error.hint is None if hint is None else hint in (error.hint or "")


@pytest.mark.parametrize("text", ["A" * 100_000, "a" * 100_000, "!" * 100_000, "a@" + "0" * 100_000, "\x1b" * 100_000])
def test_the_message_about_a_long_text_stays_short(text: str) -> None:
    error = refusal(text)
    assert len(f"{error} {error.hint}") < 600


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@quay.io/app",
        "user:hunter2@quay.io/team/app",
        "user:hunter2@quay.io:443/app:1",
        "user:hun@ter2@quay.io/App",
        f"user:hunter2@quay.io/app@{SHA256}",
        "user:hunter2@quay.io/a b",
    ],
)
def test_a_password_pasted_with_a_reference_stays_out_of_the_message(text: str) -> None:
    error = refusal(text)
    assert "hun" not in f"{error} {error.hint}"
    assert "quay.io" in str(error)


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("alpine", "alpine:latest"),
        ("docker.io/library/alpine:3", "alpine:3"),
        (f"alpine:3@{SHA256}", f"alpine:3@{SHA256}"),
        (f"alpine@{SHA256}", f"alpine@{SHA256}"),
        ("docker.io/grafana/loki", "grafana/loki:latest"),
        ("docker.io/library/team/app", "library/team/app:latest"),
        ("docker.io/other/library", "other/library:latest"),
        ("docker.io/library/ubuntu-12.04-base", "ubuntu-12.04-base:latest"),
        (f"docker.io/{HEX64}", f"{HEX64}:latest"),
        ("quay.io/library/app", "quay.io/library/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("Team/app", "Team/app:latest"),
        ("a_b.com/app", "a_b.com/app:latest"),
        # reference.FamiliarString would shorten these to the names of other images
        ("docker.io/localhost/app", "docker.io/localhost/app:latest"),
        ("docker.io/quay.io/app", "docker.io/quay.io/app:latest"),
        ("docker.io/index.docker.io/app", "docker.io/index.docker.io/app:latest"),
        ("docker.io/a_b.com/app", "docker.io/a_b.com/app:latest"),
        ("docker.io/library/quay.io/app", "library/quay.io/app:latest"),
    ],
)
def test_the_familiar_form_leaves_out_what_docker_hub_implies(text: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert reference.familiar == familiar
    assert Reference.parse(familiar) == reference


def test_a_digest_is_added_and_taken_away_and_the_tag_stays() -> None:
    tagged = Reference.parse("alpine:3.20")
    pinned = tagged.with_digest(parse_digest(SHA256))
    assert str(pinned) == f"docker.io/library/alpine:3.20@{SHA256}"
    assert pinned.without_digest() == tagged


def test_without_its_digest_a_reference_that_has_no_tag_means_latest() -> None:
    assert Reference.parse(f"alpine@{SHA256}").without_digest() == Reference.parse("alpine")


def test_another_tag_replaces_the_tag_and_keeps_the_digest() -> None:
    assert str(Reference.parse(f"alpine:3@{SHA256}").with_tag("Edge")) == f"docker.io/library/alpine:Edge@{SHA256}"


@pytest.mark.parametrize("tag", ["", "-x", ".x", "a:b", "a/b", "x\n", "\u0663", "t" * 129])
def test_another_tag_must_be_a_tag(tag: str) -> None:
    with pytest.raises(InvalidReference, match="invalid tag"):
        Reference.parse("alpine").with_tag(tag)


# Text that is nearly a reference finds more than text from all of Unicode, which hypothesis adds all the same.
HOSTILE = st.text() | st.text(alphabet="aZ09._-:/@[]%+ \n\u00e9\u0661\ud800", max_size=40)
COMPONENTS = st.from_regex(r"[a-z0-9]{1,4}((__|[._]|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
DOMAINS = st.sampled_from(["docker.io", "index.docker.io", "localhost", "Team", "a_b.com", "quay.io:443", "[::1]:5000"])
DIGESTS = st.sampled_from([SHA256, SHA384, SHA512]).map(Digest)


@st.composite
def references(draw: st.DrawFn) -> str:
    path = draw(
        st.lists(DOMAINS.filter(lambda name: re.fullmatch("[a-z._]+", name) is not None) | COMPONENTS, min_size=1)
    )
    name = "/".join([*draw(st.lists(DOMAINS, max_size=1)), *path[:4]])
    tag = draw(st.just("") | st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,6}", fullmatch=True))
    digest = draw(st.just("") | DIGESTS.map(lambda digest: f"@{digest}"))
    return name + tag + digest


@given(references())
def test_the_canonical_form_is_a_fixed_point(text: str) -> None:
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference
    assert str(Reference.parse(str(reference))) == str(reference)


@given(references())
def test_the_familiar_form_parses_back_and_is_never_longer(text: str) -> None:
    reference = Reference.parse(text)
    assert Reference.parse(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))


@given(HOSTILE)
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference as error:
        told = f"{error}{error.hint}"
        assert told.isprintable()
        assert len(told) < 1000
    else:
        assert str(reference).isascii()
        assert Reference.parse(str(reference)) == reference
        assert Reference.parse(reference.familiar) == reference


@pytest.mark.parametrize(
    "repeated", ["a-", "a__", "a_", "a/", "a.", "a", "-", "A", "1:", ":", "@", "a@", "[", " ", "\u00e9"]
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("", "!"),
        ("quay.io/", "!"),
        ("", "/x"),
        ("", "/X"),
        ("a:", ""),
        ("a@sha256:", ""),
        ("[", "/x"),
        ("u:", "/x@y"),
    ],
)
def test_hostile_text_takes_linear_time(before: str, repeated: str, after: str) -> None:
    text = before + repeated * (100_000 // len(repeated)) + after
    started = time.process_time()
    with contextlib.suppress(InvalidReference):
        Reference.parse(text)
    # 4 ms where it was measured; a quadratic search takes minutes
    assert time.process_time() - started < 1


def test_importing_references_compiles_no_pattern_and_loads_nothing_heavy() -> None:
    program = (
        "import dataclasses, re, reprlib, sys, typing\n"
        "re._compile = None\n"
        "import micropod_img.reference\n"
        "print(*{'hashlib', 'json', 'tempfile', 'pydantic', 'datetime'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n", "")
