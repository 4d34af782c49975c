from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micropod_img.errors import MicropodError, UsageError
from micropod_img.pull.registries_conf import Alias, Mirror, Registries, Registry, load_registries
from tests.support.processes import run


class Machine:
    """A machine's containers configuration: the system's directory, and the user's below a home."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.system = directory / "etc" / "containers"
        self.user = directory / "home" / ".config" / "containers"

    def write(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def load(self, named: Path | None = None, environment: dict[str, str] | None = None) -> Registries:
        home = {"HOME": str(self.directory / "home")}
        return load_registries(named, home | (environment or {}), system_directory=self.system)

    def load_text(self, text: str) -> Registries:
        return self.load(self.write(self.directory / "registries.conf", text))

    def error_of(self, text: str) -> UsageError:
        with pytest.raises(UsageError) as caught:
            self.load_text(text)
        return caught.value


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def search(*hosts: str) -> str:
    return f"unqualified-search-registries = {list(hosts)}\n"


def test_without_files_nothing_is_configured_and_no_parser_imported(machine: Machine) -> None:
    assert machine.load() == Registries()
    script = (
        "import sys; from pathlib import Path; from micropod_img.pull.registries_conf import load_registries;"
        f"none = {str(machine.directory)!r}; load_registries(None, {{'HOME': none}}, system_directory=Path(none));"
        "print(sorted({'tomllib', 'pydantic'} & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", script).stdout == "[]\n"


def test_a_table_is_read_in_full(machine: Machine) -> None:
    registries = machine.load_text("""
        [[registry]]
        prefix = "example.com/foo/"
        location = "internal.example.net/bar"
        insecure = true
        blocked = false

        [[registry.mirror]]
        location = "mirror-0.example.net/for-foo"

        [[registry.mirror]]
        location = "mirror-1.example.net:5000/"
        insecure = true
        pull-from-mirror = "tag-only"

        [[registry]]
        location = "registry.example.com"
        mirror-by-digest-only = true
        mirror = [{location = "mirror-2.example.net"}]

        [[registry]]
        prefix = "*.example.org"
        blocked = true
    """)
    file = machine.directory / "registries.conf"
    assert registries == Registries(
        registries=(
            Registry(
                prefix="example.com/foo",
                location="internal.example.net/bar",
                insecure=True,
                mirrors=(
                    Mirror("mirror-0.example.net/for-foo"),
                    Mirror("mirror-1.example.net:5000", insecure=True, pull_from_mirror="tag-only"),
                ),
                origin=f"{file}, line 2",
            ),
            Registry(
                prefix="registry.example.com",
                location="registry.example.com",
                mirror_by_digest_only=True,
                mirrors=(Mirror("mirror-2.example.net"),),
                origin=f"{file}, line 16",
            ),
            Registry(prefix="*.example.org", location="", blocked=True, origin=f"{file}, line 21"),
        )
    )


def test_aliases_and_search_are_read(machine: Machine) -> None:
    registries = machine.load_text("""
        unqualified-search-registries = ["docker.io", "quay.io/", "localhost:5000"]
        short-name-mode = "enforcing"
        [aliases]
        "alpine" = "docker.io/library/alpine"
        "old" = ""
    """)
    file = str(machine.directory / "registries.conf")
    assert registries == Registries(
        unqualified_search=("docker.io", "quay.io", "localhost:5000"),
        unqualified_search_origin=f"{file}, line 2",
        short_name_mode="enforcing",
        aliases={"alpine": Alias("docker.io/library/alpine", file), "old": Alias("", file)},
    )


# Which files are read.


def test_the_users_file_replaces_the_systems_and_its_drop_ins(machine: Machine) -> None:
    machine.write(machine.system / "registries.conf", search("system.example"))
    machine.write(machine.system / "registries.conf.d" / "a.conf", 'short-name-mode = "disabled"')
    machine.write(machine.user / "registries.conf", search("user.example"))
    machine.write(machine.user / "registries.conf.d" / "a.conf", '[aliases]\nown = "user.example/own"')
    registries = machine.load()
    assert registries.unqualified_search == ("user.example",)
    assert registries.short_name_mode == "permissive"
    assert list(registries.aliases) == ["own"]


def test_without_a_users_file_drop_ins_of_system_and_user_are_laid_over_the_systems(machine: Machine) -> None:
    machine.write(machine.system / "registries.conf", search("main.example"))
    machine.write(machine.system / "registries.conf.d" / "b.conf", search("b.example"))
    machine.write(machine.system / "registries.conf.d" / "a.conf", search("a.example"))
    assert machine.load().unqualified_search == ("b.example",)
    machine.write(machine.user / "registries.conf.d" / "a.conf", search("user.example"))
    assert machine.load().unqualified_search == ("user.example",)


def test_drop_ins_are_read_without_a_main_file(machine: Machine) -> None:
    machine.write(machine.system / "registries.conf.d" / "a.conf", search("a.example"))
    assert machine.load().unqualified_search == ("a.example",)


def test_only_files_with_the_suffix_conf_are_drop_ins(machine: Machine) -> None:
    directory = machine.system / "registries.conf.d"
    machine.write(directory / "a.conf.bak", "this is not TOML")
    machine.write(directory / "sub" / "a.conf", search("sub.example"))
    (directory / "dir.conf").mkdir()
    (directory / "link.conf").symlink_to(machine.write(machine.directory / "elsewhere", search("link.example")))
    assert machine.load().unqualified_search == ("link.example",)


@pytest.mark.parametrize("variable", ["CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH"])
def test_a_named_file_replaces_main_files_but_not_drop_ins(machine: Machine, variable: str) -> None:
    machine.write(machine.system / "registries.conf", 'short-name-mode = "disabled"')
    machine.write(machine.user / "registries.conf", 'short-name-mode = "enforcing"')
    machine.write(machine.system / "registries.conf.d" / "a.conf", '[aliases]\na = "system.example/a"')
    machine.write(machine.user / "registries.conf.d" / "a.conf", '[aliases]\nb = "user.example/b"')
    named = machine.write(machine.directory / "named.conf", search("named.example"))
    expected = (("named.example",), "permissive", ["a", "b"])
    for registries in (machine.load(named), machine.load(environment={variable: str(named)})):
        found = (registries.unqualified_search, registries.short_name_mode, list(registries.aliases))
        assert found == expected
    other = machine.write(machine.directory / "other.conf", search("other.example"))
    assert machine.load(other, {variable: str(named)}).unqualified_search == ("other.example",)
    assert machine.load(environment={variable: ""}).short_name_mode == "enforcing"


def test_a_named_file_that_is_missing_is_an_error(machine: Machine) -> None:
    missing = machine.directory / "missing.conf"
    with pytest.raises(UsageError, match="there is no such file"):
        machine.load(missing)
    with pytest.raises(UsageError, match="there is no such file"):
        machine.load(environment={"CONTAINERS_REGISTRIES_CONF": str(missing)})


def test_a_directory_that_cannot_be_listed_is_an_error(machine: Machine) -> None:
    machine.system.mkdir(parents=True)
    drop_ins = machine.system / "registries.conf.d"
    drop_ins.symlink_to(drop_ins)
    with pytest.raises(UsageError, match=f"cannot read {drop_ins}"):
        machine.load()


# How files are merged.


def test_a_drop_in_replaces_whole_tables_of_its_prefixes_and_adds_others(machine: Machine) -> None:
    machine.write(
        machine.system / "registries.conf",
        '[[registry]]\nlocation = "a.example"\ninsecure = true\n[[registry]]\nlocation = "b.example"\n',
    )
    machine.write(
        machine.system / "registries.conf.d" / "a.conf",
        '[[registry]]\nlocation = "a.example"\nblocked = true\n[[registry]]\nlocation = "c.example"\n',
    )
    found = [(entry.prefix, entry.insecure, entry.blocked) for entry in machine.load().registries]
    assert found == [("a.example", False, True), ("b.example", False, False), ("c.example", False, False)]


def test_an_empty_list_in_a_drop_in_takes_the_search_back_and_an_absent_one_does_not(machine: Machine) -> None:
    machine.write(machine.system / "registries.conf", search("a.example"))
    machine.write(machine.system / "registries.conf.d" / "a.conf", 'short-name-mode = ""\n')
    assert machine.load().unqualified_search == ("a.example",)
    drop_in = machine.write(machine.system / "registries.conf.d" / "b.conf", search())
    registries = machine.load()
    assert registries.unqualified_search == ()
    assert registries.unqualified_search_origin == f"{drop_in}, line 1"


def test_a_drop_in_redirects_and_erases_aliases(machine: Machine) -> None:
    machine.write(machine.system / "registries.conf", '[aliases]\na = "x.example/a"\nb = "x.example/b"')
    drop_in = machine.write(machine.system / "registries.conf.d" / "a.conf", '[aliases]\na = "y.example/a"\nb = ""')
    aliases = machine.load().aliases
    assert aliases == {"a": Alias("y.example/a", str(drop_in)), "b": Alias("", str(drop_in))}


# What is refused, and what is warned about.


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("[[registry]\nlocation = 'a.example'", 1, "Expected ']]'"),
        ("[[registry]]\n\nlocation 'a.example'", 3, "Expected '='"),
        ("[[registry]]\nlocation = 5", 2, "location must be a string"),
        ("[[registry]]\nlocation = 'a.example'\nblocked = 'true'", 3, "blocked must be true or false, without quotes"),
        ("\n[registry]\nlocation = 'a.example'", 2, "registry must be an array of tables, [[registry]]"),
        ("\n[[registry]]\ninsecure = true", 2, "a [[registry]] needs a location"),
        ("[[registry]]\nprefix = 'a.example'", 2, "the [[registry]] for a.example needs a location"),
        ("[[registry]]\nprefix = '*.a.example/b'", 2, "*.a.example/b does not work as a prefix"),
        ("[[registry]]\nprefix = '*.a.example:5000'", 2, "*.a.example:5000 does not work as a prefix"),
        ("[[registry]]\nlocation = 'https://a.example'", 2, "location must not be a URL"),
        ("[[registry]]\nlocation='a.b'\nprefix = 'http://a.b'", 3, "prefix must not be a URL"),
        ("[[registry]]\nlocation = 'a.b'\npull-from-mirror = 'all'", 3, "pull-from-mirror belongs into"),
        (
            "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\ninsecure = true",
            3,
            "a [[registry.mirror]] needs a loc",
        ),
        (
            """[[registry]]
            location = 'a.b'
            [[registry.mirror]]
            location = 'c.d'
            [[registry]]
            location = 'e.f'
            [[registry.mirror]]
            location = 'g.h'
            [[registry.mirror]]
            location = 'i.j'
            pull-from-mirror = 'never'""",
            11,
            "pull-from-mirror must be one of all, digest-only, tag-only, not 'never'",
        ),
        (
            """[[registry]]
            location = 'a.b'
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = 'c.d'
            pull-from-mirror = 'all'""",
            6,
            "pull-from-mirror and the registry's mirror-by-digest-only exclude each other",
        ),
        (
            "[[registry]]\nprefix = 'a.b'\nlocation = 'c.d'\n[[registry]]\nlocation = 'c.d'\nblocked = true",
            6,
            "blocked of c.d contradicts ",
        ),
        (
            "[[registry]]\nprefix = 'a.b'\nlocation = 'c.d'\n[[registry]]\nlocation = 'c.d'\ninsecure = true",
            6,
            "insecure of c.d contradicts ",
        ),
        ("short-name-mode = 'off'", 1, "short-name-mode must be one of enforcing, permissive, disabled, not 'off'"),
        ("unqualified-search-registries = 'docker.io'", 1, "unqualified-search-registries must be a list of strings"),
        ("\nunqualified-search-registries = ['docker.io/library']", 2, "'docker.io/library' is not a registry"),
        ("unqualified-search-registries = ['registry']", 1, "'registry' is not a registry"),
        ("unqualified-search-registries = ['']", 1, "'' is not a registry"),
        ("aliases = 1", 1, "aliases must be a table, [aliases]"),
        ("[aliases]\na = 'x.example/a'\nb = 1", 3, "b must be a string"),
        ("credential-helpers = 'pass'", 1, "credential-helpers must be a list of strings"),
        ("[registries.search]\nregistries = ['docker.io']", 1, "version 1 of registries.conf is not supported"),
        ("\n[registries]\nblock.registries = []", 2, "version 1 of registries.conf is not supported"),
    ],
)
def test_a_broken_file_is_an_error_that_names_file_and_line(
    machine: Machine, text: str, line: int, problem: str
) -> None:
    error = machine.error_of(text)
    assert error.message.startswith(f"{machine.directory / 'registries.conf'}, line {line}: {problem}")
    assert (error.exit_status, error.code) == (2, "config")


def test_the_error_about_version_1_says_how_to_write_version_2(machine: Machine) -> None:
    hint = machine.error_of("[registries.search]\nregistries = ['docker.io']").hint
    assert hint is not None
    assert "unqualified-search-registries = [...] for registries.search" in hint


@pytest.mark.parametrize(
    ("text", "line", "warning"),
    [
        ("\nunqualified-search = []", 2, "unknown key unqualified-search is ignored; did you mean unqualified-search-"),
        ("[[registry]]\nlocation = 'a.b'\nLocation = 'c.d'", 3, "unknown key Location is ignored; did you mean locati"),
        ("[[registry]]\nlocation = 'a.b'\nmirrors = []", 3, "unknown key mirrors is ignored; did you mean mirror?"),
        (
            "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'c.d'\nblocked = true",
            5,
            "unknown key blocked is ignored",
        ),
        ("[[registry]]\nlocation = 'a.b'\nprefix = 'a.*.b'", 3, "no name matches the prefix a.*.b: a * can only stand"),
        ("credential-helpers = ['pass']", 1, "credential-helpers is ignored; name helpers in the auth file"),
    ],
)
def test_what_has_no_effect_is_warned_about(machine: Machine, text: str, line: int, warning: str) -> None:
    (found,) = machine.load_text(text).warnings
    assert found.startswith(f"{machine.directory / 'registries.conf'}, line {line}: {warning}")


def test_the_second_table_for_a_prefix_in_one_file_is_warned_about_and_ignored(machine: Machine) -> None:
    registries = machine.load_text("""
        [[registry]]
        location = "a.example"
        [[registry]]
        prefix = "a.example"
        location = "b.example"
    """)
    assert [entry.location for entry in registries.registries] == ["a.example"]
    file = machine.directory / "registries.conf"
    assert registries.warnings == (
        f"{file}, line 4: the second table for prefix a.example is ignored, after {file}, line 2",
    )


def test_warnings_of_all_files_are_kept(machine: Machine) -> None:
    machine.write(machine.system / "registries.conf", "one = 1")
    machine.write(machine.system / "registries.conf.d" / "a.conf", "two = 2")
    assert [warning.rpartition(":")[2] for warning in machine.load().warnings] == [
        " unknown key one is ignored",
        " unknown key two is ignored",
    ]


@pytest.mark.parametrize("text", ["", "credential-helpers = ['containers-auth.json']", "[aliases]\n", "registry = []"])
def test_what_says_nothing_changes_nothing(machine: Machine, text: str) -> None:
    assert machine.load_text(text) == Registries()


def test_the_short_names_that_podman_brings_are_read_without_a_complaint() -> None:
    shipped = Path("/etc/containers/registries.conf.d/shortnames.conf")
    if not shipped.exists():
        pytest.skip(f"no {shipped} here: apt-get install golang-github-containers-common")
    registries = load_registries(shipped, {"HOME": "/nonexistent"}, system_directory=Path("/nonexistent"))
    assert registries.warnings == ()
    assert registries.aliases["debian"] == Alias("docker.io/library/debian", str(shipped))


_FRAGMENTS = (
    *("[[registry]]\n", "[[registry.mirror]]\n", "[aliases]\n", "[registries.search]\n", "[", "]", "'", "\n"),
    *("prefix = '*.a.b'\n", "location = 'a.b/c'\n", "location = ''\n", "blocked = true\n", "insecure = 1\n"),
    *("mirror-by-digest-only = true\n", "pull-from-mirror = 'tag-only'\n", "a = ''\n", "short-name-mode = ''\n"),
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(fragments=st.lists(st.sampled_from(_FRAGMENTS), max_size=12))
def test_no_text_crashes_the_reader(machine: Machine, fragments: list[str]) -> None:
    try:
        machine.load_text("".join(fragments))
    except MicropodError as error:
        assert str(machine.directory / "registries.conf") in error.message  # noqa: PT017 - nothing else may be raised
