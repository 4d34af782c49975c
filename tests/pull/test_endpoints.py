from __future__ import annotations

import os
import re
import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img.digest import Digest
from micropod_img.errors import AuthError, InvalidReference, UnsupportedError, UsageError
from micropod_img.pull.endpoints import (
    Endpoint,
    candidates_for_short_name,
    direct_endpoint,
    endpoints,
    find_registry,
)
from micropod_img.pull.registries_conf import Alias, Mirror, Registries, Registry, load_registries
from micropod_img.reference import Reference
from tests.support.processes import require_program, run

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = Digest("sha256:" + "a" * 64)


def asked(text: str, *registries: Registry) -> list[str]:
    """Where an image is asked for, as crane is told."""
    return [endpoint.reference_text for endpoint in endpoints(Reference.parse(text), Registries(registries))]


def registry(prefix: str, *mirrors: str | Mirror, location: str | None = None, **flags: bool) -> Registry:
    return Registry(
        prefix=prefix,
        location=prefix if location is None else location,
        mirrors=tuple(Mirror(mirror) if isinstance(mirror, str) else mirror for mirror in mirrors),
        origin="/etc/r.conf, line 7",
        **flags,
    )


def test_without_configuration_the_registry_itself_is_asked() -> None:
    assert endpoints(Reference.parse("alpine"), Registries()) == (
        Endpoint(
            host="docker.io",
            repository="library/alpine",
            insecure=False,
            is_mirror=False,
            reference_text="docker.io/library/alpine:latest",
        ),
    )


def test_an_image_is_asked_for_by_its_digest_where_it_has_one() -> None:
    (endpoint,) = endpoints(Reference.parse(f"a.example/app:1@{DIGEST}"), Registries())
    assert endpoint.reference_text == f"a.example/app@{DIGEST}"


def test_other_documents_are_asked_for_at_the_same_place() -> None:
    (endpoint,) = endpoints(Reference.parse("a.example:5000/app:1"), Registries())
    assert endpoint.text_for(DIGEST) == f"a.example:5000/app@{DIGEST}"


def test_mirrors_come_in_order_and_the_registry_last() -> None:
    table = registry("a.example/foo", "m.example/x", "n.example:5000", location="b.example/bar")
    assert asked("a.example/foo/app:1", table) == [
        "m.example/x/app:1",
        "n.example:5000/app:1",
        "b.example/bar/app:1",
    ]
    found = endpoints(Reference.parse("a.example/foo/app:1"), Registries((table,)))
    assert [endpoint.is_mirror for endpoint in found] == [True, True, False]
    assert [(endpoint.host, endpoint.repository) for endpoint in found] == [
        ("m.example", "x/app"),
        ("n.example:5000", "app"),
        ("b.example", "bar/app"),
    ]


@pytest.mark.parametrize(
    ("prefix", "location", "text", "expected"),
    [
        ("docker.io", "mirror.example/hub", "alpine", "mirror.example/hub/library/alpine:latest"),
        ("docker.io/library", "mirror.example", "alpine", "mirror.example/alpine:latest"),
        ("docker.io/alpine", "mirror.example", "alpine", "docker.io/library/alpine:latest"),
        ("a.example", "docker.io", "a.example/alpine", "docker.io/library/alpine:latest"),
        ("a.example", "index.docker.io/team", "a.example/app", "docker.io/team/app:latest"),
        ("a.example/app", "b.example/other", "a.example/app:1", "b.example/other:1"),
        ("a.example/app", "b.example/other", f"a.example/app@{DIGEST}", f"b.example/other@{DIGEST}"),
        ("a.example/app", "b.example/other", "a.example/apple:1", "a.example/apple:1"),
        ("a.example/ap", "b.example/other", "a.example/app:1", "a.example/app:1"),
        ("a.example", "b.example", "a.example.org/app:1", "a.example.org/app:1"),
        ("a.example", "b.example", "a.example:5000/app:1", "b.example:5000/app:1"),
        ("a.example:5000", "b.example", "a.example:5000/app:1", "b.example/app:1"),
        ("a.example:500", "b.example", "a.example:5000/app:1", "a.example:5000/app:1"),
        ("a.example:5000", "b.example", "a.example/app:1", "a.example/app:1"),
        ("A.Example", "b.example", "a.eXample/app:1", "b.example/app:1"),
        ("[::1]:5000", "b.example", "[::1]:5000/app:1", "b.example/app:1"),
        ("*.example", "", "a.b.example:5000/app:1", "a.b.example:5000/app:1"),
        ("*.example", "m.example.org/x", "a.b.example/app:1", "m.example.org/x/app:1"),
        ("*.example", "m.example.org", "a.example:5000/app:1", "m.example.org:5000/app:1"),
        ("*.example", "m.example.org", "a.EXAMPLE/app:1", "m.example.org/app:1"),
        ("*.example", "m.example.org", "example/app:1", "docker.io/example/app:1"),
        ("*.example", "m.example.org", "b.org/a.example/app:1", "b.org/a.example/app:1"),
        ("*.example", "m.example.org", "a.example.org/app:1", "a.example.org/app:1"),
        ("*.x.example", "m.example.org", "a.x.example.x.example/app:1", "m.example.org/app:1"),
        ("a.example/app:1", "b.example/app:2", "a.example/app:1", "b.example/app:2"),
        ("a.example/app:1", "b.example/app", "a.example/app:1", "b.example/app:1"),
        ("a.example/app:1", "b.example/app", "a.example/app:10", "a.example/app:10"),
        (f"a.example/app@{DIGEST}", "b.example/app", f"a.example/app@{DIGEST}", f"b.example/app@{DIGEST}"),
    ],
)
def test_the_location_takes_the_place_of_the_prefix(prefix: str, location: str, text: str, expected: str) -> None:
    assert asked(text, registry(prefix, location=location)) == [expected]


def test_the_longest_prefix_decides() -> None:
    tables = (
        registry("a.example", location="one.example"),
        registry("a.example/team/app", location="three.example"),
        registry("a.example/team", location="two.example"),
    )
    assert asked("a.example/x/app:1", *tables) == ["one.example/x/app:1"]
    assert asked("a.example/team/x:1", *tables) == ["two.example/x:1"]
    assert asked("a.example/team/app/x:1", *tables) == ["three.example/x:1"]


def test_of_two_prefixes_of_one_length_the_host_beats_the_wildcard() -> None:
    tables = [registry("*.example", location="wild.example.org"), registry("a.example", location="host.example.org")]
    for order in (tables, tables[::-1]):
        assert asked("a.example/app:1", *order) == ["host.example.org/app:1"]


@pytest.mark.parametrize(
    ("by_digest_only", "pull_from_mirror", "by_tag", "by_digest"),
    [
        (False, "all", True, True),
        (True, "all", False, True),
        (False, "digest-only", False, True),
        (False, "tag-only", True, False),
    ],
)
@pytest.mark.parametrize("suffix", [":1", f"@{DIGEST}", f":1@{DIGEST}"])
def test_mirrors_serve_the_references_that_they_are_for(
    *, by_digest_only: bool, pull_from_mirror: str, by_tag: bool, by_digest: bool, suffix: str
) -> None:
    mirror = Mirror("m.example", pull_from_mirror=pull_from_mirror)  # type: ignore[arg-type]  # one of the four
    hosts = [
        text.partition("/")[0]
        for text in asked(f"a.example/app{suffix}", registry("a.example", mirror, mirror_by_digest_only=by_digest_only))
    ]
    served = by_digest if "@" in suffix else by_tag
    assert hosts == (["m.example"] if served else []) + ["a.example"]


# insecure


def insecure_hosts(text: str, *tables: Registry, **options: object) -> list[str]:
    found = endpoints(Reference.parse(text), Registries(tables), **options)  # type: ignore[arg-type]
    return [endpoint.host for endpoint in found if endpoint.insecure]


def test_insecure_holds_for_the_location_that_says_so() -> None:
    secure, insecure = Mirror("m.example"), Mirror("n.example", insecure=True)
    assert insecure_hosts("a.example/app", registry("a.example", secure, insecure)) == ["n.example"]
    assert insecure_hosts("a.example/app", registry("a.example", secure, insecure=True)) == ["a.example"]


def test_insecure_of_the_configuration_holds_for_the_host_that_is_asked() -> None:
    table = registry("a.example", "m.example:5000", location="b.example")
    for host in ("m.example:5000", "b.example"):
        assert insecure_hosts("a.example/app", table, insecure_registries=(host,)) == [host]
    assert insecure_hosts("a.example/app", table, insecure_registries=("a.example", "m.example")) == []
    assert insecure_hosts("A.Example/app", insecure_registries=("a.example",)) == ["A.Example"]


def test_insecure_of_the_call_holds_for_all() -> None:
    table = registry("a.example", "m.example")
    assert insecure_hosts("a.example/app", table, insecure=True) == ["m.example", "a.example"]


# blocked


def blocked(text: str, *tables: Registry) -> AuthError:
    with pytest.raises(AuthError) as caught:
        endpoints(Reference.parse(text), Registries(tables))
    return caught.value


def test_a_blocked_registry_is_an_error_that_names_the_file() -> None:
    error = blocked("a.example/app", registry("a.example", blocked=True))
    assert error.message == "a.example/app:latest is not allowed here: registries.conf blocks a.example"
    assert error.hint == "blocked = true is in /etc/r.conf, line 7"
    assert (error.exit_status, error.code, error.endpoint) == (4, "blocked", "a.example")


def test_blocked_is_judged_by_the_logical_name() -> None:
    blocked("a.example/app", registry("a.example", location="b.example", blocked=True))
    blocked("alpine", registry("docker.io", blocked=True))
    blocked("a.b.example/app", registry("*.example", location="", blocked=True))
    blocked("A.EXAMPLE/app", registry("a.example", blocked=True))
    blocked("a.example:8443/app", registry("a.example", blocked=True))
    blocked("a.example/app:bad", registry("a.example/app:bad", blocked=True))
    assert asked("a.example/app:good", registry("a.example/app:bad", blocked=True)) == ["a.example/app:good"]


def test_blocked_is_judged_by_the_physical_name() -> None:
    evil = registry("evil.example", blocked=True)
    assert blocked("a.example/app", registry("a.example", location="evil.example/x"), evil).hint == (
        "blocked = true is in /etc/r.conf, line 7"
    )
    assert asked("a.example/app", registry("a.example", "evil.example", "m.example"), evil) == [
        "m.example/app:latest",
        "a.example/app:latest",
    ]


def test_a_longer_prefix_lifts_a_block() -> None:
    tables = registry("a.example", blocked=True), registry("a.example/team")
    blocked("a.example/app", *tables)
    assert asked("a.example/team/app", *tables) == ["a.example/team/app:latest"]


def test_the_mirrors_of_a_blocked_registry_are_asked_and_it_is_not() -> None:
    table = registry("a.example", "m.example", blocked=True)
    assert asked("a.example/app", table) == ["m.example/app:latest"]


def test_a_blocked_registry_whose_mirrors_are_for_digests_says_so() -> None:
    table = registry("a.example", "m.example", blocked=True, mirror_by_digest_only=True)
    hint = blocked("a.example/app", table).hint
    assert hint is not None
    assert hint.endswith("; the mirrors are only for references with a digest")
    assert asked(f"a.example/app@{DIGEST}", table) == [f"m.example/app@{DIGEST}"]
    by_tag = registry("a.example", Mirror("m.example", pull_from_mirror="tag-only"), blocked=True)
    hint = blocked(f"a.example/app@{DIGEST}", by_tag).hint
    assert hint is not None
    assert hint.endswith("; the mirrors are only for references with a tag alone")


# locations and names that cannot be asked


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("registry", "registry/app:1 names no registry"),
        ("library", "library/app:1 names no registry"),
        ("b.example/Team", "repository name must be lowercase"),
        ("b.example/a b", "it contains a space"),
        ("b_c.example:5000", "a host name has no underscore"),
    ],
)
def test_a_location_that_makes_no_name_is_an_error_that_names_the_file(location: str, problem: str) -> None:
    for table in (registry("a.example", location=location), registry("a.example", location)):
        with pytest.raises(UsageError) as caught:
            asked("a.example/app:1", table)
        assert caught.value.message.startswith(
            f"/etc/r.conf, line 7: the location {location} does not work for a.example/app:1: "
        )
        assert problem in caught.value.message
        assert not isinstance(caught.value, InvalidReference)


def test_a_name_without_a_registry_is_unsupported() -> None:
    odd = Reference.parse("a_b.com/app")
    assert odd.domain == ""
    for ask in (endpoints, direct_endpoint):
        with pytest.raises(UnsupportedError, match="no registry can have a_b"):
            ask(odd, Registries())


# push and tags


def test_pushing_and_listing_go_to_the_registry_itself() -> None:
    table = registry("a.example", "m.example", location="b.example", insecure=True)
    assert direct_endpoint(Reference.parse("a.example/app:1"), Registries((table,))) == Endpoint(
        host="a.example", repository="app", insecure=True, is_mirror=False, reference_text="a.example/app:1"
    )
    assert not direct_endpoint(Reference.parse("c.example/app"), Registries((table,))).insecure
    assert direct_endpoint(Reference.parse("c.example/app"), Registries(), insecure=True).insecure
    assert direct_endpoint(Reference.parse("c.example/app"), Registries(), insecure_registries=["c.example"]).insecure


def test_pushing_to_a_blocked_registry_is_not_allowed() -> None:
    table = registry("a.example", "m.example", blocked=True)
    with pytest.raises(AuthError, match=r"registries\.conf blocks a\.example") as caught:
        direct_endpoint(Reference.parse("a.example/app:1"), Registries((table,)))
    assert caught.value.hint == "blocked = true is in /etc/r.conf, line 7"


# short names

SHORT_NAMES = Registries(
    unqualified_search=("one.example", "docker.io"),
    unqualified_search_origin="/etc/r.conf, line 1",
    short_name_mode="permissive",
    aliases={
        "app": Alias("alias.example:5000/team/app", "/etc/r.conf"),
        "team/app": Alias("docker.io/app", "/etc/r.conf"),
        "erased": Alias("", "/etc/r.conf"),
        "tagged": Alias("alias.example/app:1", "/etc/r.conf"),
        "tagged-hub": Alias("docker.io/app:1", "/etc/r.conf"),
        "pinned": Alias(f"alias.example/app@{DIGEST}", "/etc/r.conf"),
        "short": Alias("team/app", "/etc/r.conf"),
        "bad": Alias("alias.example/APP", "/etc/r.conf"),
    },
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", ["alias.example:5000/team/app:latest"]),
        ("app:2", ["alias.example:5000/team/app:2"]),
        (f"app:2@{DIGEST}", [f"alias.example:5000/team/app:2@{DIGEST}"]),
        ("team/app:3", ["docker.io/library/app:3"]),
        ("other", ["one.example/other:latest", "docker.io/library/other:latest"]),
        ("team/other:1", ["one.example/team/other:1", "docker.io/team/other:1"]),
        (f"other@{DIGEST}", [f"one.example/other@{DIGEST}", f"docker.io/library/other@{DIGEST}"]),
        ("erased", ["one.example/erased:latest", "docker.io/library/erased:latest"]),
        ("docker.io/app", ["docker.io/library/app:latest"]),
        ("index.docker.io/team/app", ["docker.io/team/app:latest"]),
        ("localhost/app", ["localhost/app:latest"]),
        ("other.example/app", ["other.example/app:latest"]),
    ],
)
def test_short_names_mean_what_registries_conf_says(text: str, expected: list[str]) -> None:
    assert [str(reference) for reference in candidates_for_short_name(text, SHORT_NAMES)] == expected


@pytest.mark.parametrize("name", ["tagged", "tagged-hub", "pinned", "short", "bad"])
def test_an_alias_that_does_not_work_is_an_error_that_names_the_file(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        candidates_for_short_name(name, SHORT_NAMES)
    assert caught.value.message.startswith(f"/etc/r.conf: the alias {name} = {SHORT_NAMES.aliases[name].value} does ")


def test_a_short_name_that_nothing_explains_is_an_error() -> None:
    with pytest.raises(UsageError, match="the short name app means no image") as caught:
        candidates_for_short_name("app:1", Registries())
    assert caught.value.hint == "write it in full, such as docker.io/library/app, or add it to registries.conf"


def test_several_candidates_are_an_error_where_short_names_are_enforced() -> None:
    enforcing = Registries(
        unqualified_search=("one.example", "docker.io"), unqualified_search_origin="R", short_name_mode="enforcing"
    )
    with pytest.raises(UsageError, match="the short name app is ambiguous") as caught:
        candidates_for_short_name("app", enforcing)
    assert caught.value.hint is not None
    assert "one.example/app:latest, docker.io/library/app:latest (the registries are in R)" in caught.value.hint
    single = Registries(unqualified_search=("one.example",), short_name_mode="enforcing")
    assert candidates_for_short_name("app", single) == (Reference.parse("one.example/app"),)


def test_what_is_no_reference_is_no_short_name() -> None:
    with pytest.raises(InvalidReference):
        candidates_for_short_name("App", SHORT_NAMES)


# Properties, and Podman's own judgement.

HOSTS = st.sampled_from(["a.example", "b.a.example", "a.example:5000", "localhost:1", "docker.io"])
PATHS = st.lists(st.sampled_from(["x", "y", "xy"]), min_size=1, max_size=4).map("/".join)
NAMES = st.builds("{}/{}".format, HOSTS, PATHS)
SUFFIXES = st.sampled_from(["", ":1", f"@{DIGEST}", f":1@{DIGEST}"])


@given(name=NAMES, suffix=SUFFIXES, prefixes=st.lists(NAMES | HOSTS, unique=True, max_size=6))
def test_the_table_found_has_the_longest_of_all_matching_prefixes(name: str, suffix: str, prefixes: list[str]) -> None:
    reference = Reference.parse(name + suffix)
    found = find_registry(reference, Registries(tuple(registry(prefix) for prefix in prefixes)))
    starts = re.split(r"(?=[/:@])", str(reference))
    matching = [prefix for prefix in prefixes if prefix in {"".join(starts[:n]) for n in range(len(starts) + 1)}]
    assert (found.prefix if found else "") == max(matching, key=len, default="")


@given(name=NAMES, suffix=SUFFIXES, location=NAMES | HOSTS, cut=st.integers(1, 5))
def test_what_follows_the_prefix_is_kept(name: str, suffix: str, location: str, cut: int) -> None:
    reference = Reference.parse(name + suffix)
    parts = reference.name.split("/")
    prefix, rest = "/".join(parts[:cut]), "".join(f"/{part}" for part in parts[cut:])
    if "/" not in location + rest:
        rest = ""
        prefix, location = reference.name, f"{location}/x"
    (endpoint,) = endpoints(reference, Registries((registry(prefix, location=location),)))
    physical = Reference.parse(location + rest)
    assert (endpoint.host, endpoint.repository) == (physical.domain, physical.path)
    assert endpoint.reference_text.removeprefix(physical.name) == (
        f"@{reference.digest}" if reference.digest else f":{reference.tag}"
    )


@given(text=st.text(alphabet=string.ascii_letters + string.digits + "./:@*_-", max_size=30), prefix=NAMES | HOSTS)
def test_no_location_is_ever_taken_for_a_name_on_docker_hub(text: str, prefix: str) -> None:
    reference = Reference.parse(f"{prefix}/app:1")
    try:
        (endpoint,) = endpoints(reference, Registries((registry(prefix, location=text),)))
    except (UsageError, UnsupportedError):
        return
    assert endpoint.host == text.partition("/")[0] or not text or "docker.io" in text


PODMAN_CONF = """
[[registry]]
prefix = "127.0.0.1:1/foo"
location = "127.0.0.2:1/bar"
[[registry.mirror]]
location = "127.0.0.3:1/m0"
[[registry.mirror]]
location = "127.0.0.4:1"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "127.0.0.5:1"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "127.0.0.1:1/foo/deeper"
location = "127.0.0.2:1/deep"
mirror-by-digest-only = true
[[registry.mirror]]
location = "127.0.0.3:1"

[[registry]]
location = "127.0.0.1:1/blocked"
blocked = true
[[registry.mirror]]
location = "127.0.0.3:1/allowed"

[[registry]]
prefix = "127.0.0.1:1/physical"
location = "127.0.0.1:1/blocked/deep"
[[registry.mirror]]
location = "127.0.0.1:1/blocked/mirror"
[[registry.mirror]]
location = "127.0.0.6:1/mirror"

[[registry]]
location = "127.0.0.1:1/forbidden"
blocked = true

[[registry]]
prefix = "127.0.0.8"
location = "127.0.0.9"

[[registry]]
prefix = "*.1.0.1"
[[registry.mirror]]
location = "127.0.0.7:1/wild"

[[registry]]
prefix = "*.2.0.1"
location = "127.0.0.2:1/tamed"
"""


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1:1/other/app:1",
        "127.0.0.1:1/foobar:1",
        "127.0.0.1:1/foo/app:1",
        f"127.0.0.1:1/foo/app@{DIGEST}",
        "127.0.0.1:1/foo/deeper/app:1",
        f"127.0.0.1:1/foo/deeper/app@{DIGEST}",
        "127.0.0.1:1/blocked/app:1",
        "127.0.0.1:1/forbidden/app:1",
        "127.0.0.1:1/physical/app:1",
        "127.0.0.8:1/app:1",
        "127.1.0.1/app:1",
        "127.2.0.1/blocked/app:1",
    ],
)
def test_podmans_library_asks_the_same_places_in_the_same_order(tmp_path: Path, name: str) -> None:
    skopeo = require_program("skopeo", package="skopeo")
    conf = tmp_path / "registries.conf"
    conf.write_text(PODMAN_CONF)
    # Nobody listens on these ports, so it tries them all.
    argv = (skopeo, "--debug", "--registries-conf", conf, "inspect", f"docker://{name}")
    words = run("env", f"HOME={tmp_path}", f"PATH={os.environ['PATH']}", *argv).stderr
    tried = re.findall(r'Trying to access \\"(.*?)\\"', words)
    assert tried
    refused = set(re.findall(r"([^\s\[]+): registry \S+ is blocked", words))
    if len(tried) == 1 and "is blocked" in words:
        refused.update(tried)
    registries = load_registries(conf, {"HOME": str(tmp_path)}, system_directory=tmp_path)
    try:
        found = [endpoint.reference_text for endpoint in endpoints(Reference.parse(name), registries)]
    except AuthError:
        found = []
    assert found == [text for text in tried if text not in refused]
