from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micropod_img.config import Config, home_directory, load_config, registry_domain, store_root
from micropod_img.errors import MicropodError, UsageError
from micropod_img.limits import Limits
from tests.support.processes import run

USER = 1000
ROOT = 0


@pytest.fixture
def system_file(tmp_path: Path) -> Path:
    """Where the system's file would be; there is none yet."""
    return tmp_path / "etc" / "config.toml"


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    """Where the user's file would be; there is none yet."""
    return tmp_path / "home" / ".config" / "micropod" / "config.toml"


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(tmp_path: Path, text: str) -> Config:
    """Load a configuration of one named file."""
    return load_config(written(tmp_path / "config.toml", text), {"HOME": "/home/user"}, uid=USER)


def error_of(tmp_path: Path, text: str | bytes) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_config(written(tmp_path / "config.toml", text), {"HOME": "/home/user"}, uid=USER)
    return caught.value


def test_without_files_everything_has_its_default(tmp_path: Path, system_file: Path) -> None:
    assert load_config(None, {"HOME": str(tmp_path)}, uid=USER, system_file=system_file) == Config()
    assert Config() == Config(
        root=None,
        jobs=4,
        timeout=None,
        stall_timeout=60.0,
        insecure_registries=(),
        short_names="docker.io",
        registries_conf=None,
        auth_file=None,
        ca_file=None,
        tools_dir=None,
        platform=None,
    )


def test_without_files_no_parser_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from micropod_img.config import load_config;"
        f"load_config(None, {{'HOME': {str(tmp_path)!r}}}, uid=1000, system_file=Path({str(tmp_path / 'none')!r}));"
        "print(sorted({'tomllib', 'pydantic', 'difflib', 'micropod_img.toml_file', 'micropod_img.reference'}"
        " & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", script).stdout == "[]\n"


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()
    assert load_config(Path("/dev/null"), {}, uid=USER) == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('root = "/srv/images"', Config(root=Path("/srv/images"))),
        ('root = "~/images"', Config(root=Path("/home/user/images"))),
        ("jobs = 1", Config(jobs=1)),
        ("timeout = 300", Config(timeout=300.0)),
        ("timeout = 0.5", Config(timeout=0.5)),
        ('timeout = "none"', Config(timeout=None)),
        ("stall-timeout = 10", Config(stall_timeout=10.0)),
        ("insecure-registries = []", Config()),
        (
            'insecure-registries = ["localhost:5000", "Registry.Example.com", "[::1]:5000", "10.0.0.1"]',
            Config(insecure_registries=("localhost:5000", "registry.example.com", "[::1]:5000", "10.0.0.1")),
        ),
        ('short-names = "docker.io"', Config()),
        ('short-names = "registries.conf"', Config(short_names="registries.conf")),
        ('registries-conf = "/etc/r.conf"', Config(registries_conf=Path("/etc/r.conf"))),
        ('auth-file = "/run/auth.json"', Config(auth_file=Path("/run/auth.json"))),
        ('ca-file = "/etc/ca.pem"', Config(ca_file=Path("/etc/ca.pem"))),
        ('tools-dir = "/usr/libexec/micropod"', Config(tools_dir=Path("/usr/libexec/micropod"))),
        ('platform = "linux/arm64"', Config(platform="linux/arm64")),
        ('max-size = "2G"\nmax-entries = 10', Config(limits=Limits(max_size=2 << 30, max_entries=10))),
        ('max-file-size = 1000\nmax-depth = "9"', Config(limits=Limits(max_file_size=1000, max_depth=9))),
        ("max-ratio = 1000", Config(limits=Limits(max_ratio=1000))),
        ("\ufeffjobs = 2\r\n# a comment\r\n", Config(jobs=2)),
    ],
)
def test_each_key_is_read(tmp_path: Path, text: str, expected: Config) -> None:
    assert load(tmp_path, text) == expected


def test_a_relative_path_is_relative_to_its_file(tmp_path: Path) -> None:
    assert load(tmp_path, 'ca-file = "certs/ca.pem"').ca_file == tmp_path / "certs" / "ca.pem"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("jobs = 4\njobs = 5", 2, "Cannot overwrite a value"),
        ("jobs = 4\n\nroot /srv", 3, "Expected '='"),
        ("\n\njobs = [1", 3, "Unclosed array"),
        (b"root = '/srv'\nplatform = '\xff'", 2, "not UTF-8"),
        pytest.param("a = " + "[" * 3000, None, "not TOML", id="nested-too-deeply"),
        pytest.param("a = " + "9" * 5000, None, "not TOML", id="a-number-too-long"),
        ("jobs = 0", 1, "jobs must be a whole number above 0"),
        ("# how many\njobs = -1", 2, "jobs must be a whole number above 0"),
        ("jobs = 1.0", 1, "jobs must be a whole number above 0"),
        ("jobs = true", 1, "jobs must be a whole number above 0"),
        ("max-size = 0", 1, "max-size: '0' is not a size"),
        ('jobs = 1\nmax-depth = "deep"', 2, "max-depth: 'deep' is not a whole number above 0"),
        ("max-entries = true", 1, 'max-entries must be a number, or a string such as "2G"'),
        ("timeout = 0", 1, "timeout must be a number of seconds above 0"),
        ("timeout = nan", 1, "timeout must be a number of seconds above 0"),
        ("timeout = inf", 1, "timeout must be a number of seconds above 0"),
        pytest.param("timeout = " + "9" * 400, 1, "timeout must be a number of seconds", id="longer-than-ever"),
        ("timeout = true", 1, "timeout must be a number of seconds above 0"),
        ('timeout = "5m"', 1, 'timeout must be a number of seconds above 0, or "none"'),
        ('stall-timeout = "none"', 1, "stall-timeout must be a number of seconds above 0"),
        ('root = ""', 1, "root is empty"),
        ('platform = ""', 1, "platform is empty"),
        ("root = 5", 1, "root must be a string"),
        ('ca-file = "a\\u0000b"', 1, "ca-file contains a NUL character"),
        ('short-names = "quay.io"', 1, 'short-names must be "docker.io" or "registries.conf"'),
        ('insecure-registries = "localhost:5000"', 1, "insecure-registries must be a list of strings"),
        ("insecure-registries = [1]", 1, "insecure-registries must be a list of strings"),
        ('insecure-registries = ["http://localhost:5000"]', 1, "'http://localhost:5000' is not a registry"),
        ('insecure-registries = ["registry"]', 1, "'registry' is not a registry"),
        ('insecure-registries = ["10.0.0.0/8"]', 1, "'10.0.0.0/8' is not a registry"),
    ],
)
def test_a_broken_file_is_an_error_that_names_file_and_line(
    tmp_path: Path, text: str | bytes, line: int | None, problem: str
) -> None:
    error = error_of(tmp_path, text)
    assert error.exit_status == 2
    assert error.code == "config"
    place = f"{tmp_path / 'config.toml'}" + (f", line {line}" if line else "")
    assert error.message.startswith(f"{place}: {problem}")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("insecure-registry", "did you mean insecure-registries?"),
        ("stall_timeout", "did you mean stall-timeout?"),
        ("Root", "did you mean root?"),
        ("colour", "the keys are root, jobs, "),
    ],
)
def test_an_unknown_key_is_an_error_with_the_key_that_was_meant(tmp_path: Path, key: str, hint: str) -> None:
    error = error_of(tmp_path, f"jobs = 4\n{key} = 1\n")
    assert error.message == f"{tmp_path / 'config.toml'}, line 2: unknown key {key}"
    assert error.hint is not None
    assert error.hint.startswith(hint)


def test_the_users_keys_win_over_the_systems_one_by_one(tmp_path: Path, system_file: Path, user_file: Path) -> None:
    written(system_file, 'jobs = 2\ntimeout = 600\ninsecure-registries = ["a.example"]')
    written(user_file, 'jobs = 8\ntimeout = "none"\nplatform = "linux/arm64"')
    config = load_config(None, {"HOME": str(tmp_path / "home")}, uid=USER, system_file=system_file)
    assert config == Config(jobs=8, timeout=None, insecure_registries=("a.example",), platform="linux/arm64")


def test_root_has_the_systems_file_only(tmp_path: Path, system_file: Path, user_file: Path) -> None:
    written(system_file, "jobs = 2")
    written(user_file, "jobs = 8")
    assert load_config(None, {"HOME": str(tmp_path / "home")}, uid=ROOT, system_file=system_file) == Config(jobs=2)


@pytest.mark.parametrize(("xdg", "jobs"), [("{tmp}/xdg", 3), ("xdg", 8), ("", 8)])
def test_a_relative_xdg_directory_counts_as_unset(
    tmp_path: Path, system_file: Path, user_file: Path, xdg: str, jobs: int
) -> None:
    written(user_file, "jobs = 8")
    written(tmp_path / "xdg" / "micropod" / "config.toml", "jobs = 3")
    environment = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": xdg.format(tmp=tmp_path)}
    assert load_config(None, environment, uid=USER, system_file=system_file).jobs == jobs


def test_a_named_file_is_the_only_one_read(tmp_path: Path, system_file: Path, user_file: Path) -> None:
    written(system_file, "timeout = 5")
    written(user_file, "stall-timeout = 5")
    option, variable = written(tmp_path / "a.toml", "jobs = 1"), written(tmp_path / "b.toml", "jobs = 2")
    environment = {"HOME": str(tmp_path / "home"), "MICROPOD_CONFIG": str(variable)}
    assert load_config(None, environment, uid=USER, system_file=system_file) == Config(jobs=2)
    assert load_config(option, environment, uid=USER, system_file=system_file) == Config(jobs=1)


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(UsageError, match="there is no such file") as option:
        load_config(missing, {}, uid=USER)
    with pytest.raises(UsageError, match="there is no such file") as variable:
        load_config(None, {"MICROPOD_CONFIG": str(missing)}, uid=USER)
    assert (option.value.hint, variable.value.hint) == ("--config names it", "$MICROPOD_CONFIG names it")


def test_an_empty_micropod_config_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\$MICROPOD_CONFIG is empty"):
        load_config(None, {"MICROPOD_CONFIG": ""}, uid=USER)


def test_a_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path, system_file: Path) -> None:
    system_file.mkdir(parents=True)
    with pytest.raises(UsageError, match=f"cannot read {system_file}: Is a directory"):
        load_config(None, {"HOME": str(tmp_path)}, uid=USER, system_file=system_file)


def test_a_loop_of_links_is_not_passed_over(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UsageError, match="cannot read"):
        load_config(None, {"HOME": str(tmp_path)}, uid=USER, system_file=loop)


def test_a_user_without_a_home_has_no_file_of_their_own(system_file: Path) -> None:
    assert load_config(None, {}, uid=2**31, system_file=system_file) == Config()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(alphabet=st.sampled_from("rootjbs-=\"'[]{}.#\n 0179é\\"), max_size=60) | st.text(max_size=40))
def test_no_text_crashes_the_reader(tmp_path: Path, text: str) -> None:
    try:
        load(tmp_path, text)
    except MicropodError as error:
        assert str(tmp_path / "config.toml") in error.message  # noqa: PT017 - it must not raise anything else either


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    above=st.lists(
        st.sampled_from(["", "# short-names = 0", "#", "jobs = 3", 'root = "short-names = 1"', "timeout = 5 # x = 1"]),
        unique=True,
    )
)
def test_the_line_named_is_the_line_of_the_key(tmp_path: Path, above: list[str]) -> None:
    error = error_of(tmp_path, "\n".join([*above, "  'short-names'   = 1"]))
    assert f"line {len(above) + 1}:" in error.message


@pytest.mark.parametrize(
    ("option", "environment", "config", "uid", "expected"),
    [
        ("/opt/s", {"MICROPOD_ROOT": "/env"}, Config(root=Path("/conf")), USER, "/opt/s"),
        (Path("/opt/s"), {}, Config(), ROOT, "/opt/s"),
        (None, {"MICROPOD_ROOT": "/env"}, Config(root=Path("/conf")), USER, "/env"),
        (None, {"HOME": "/h"}, Config(root=Path("/conf")), USER, "/conf"),
        (None, {"HOME": "/root", "XDG_DATA_HOME": "/x"}, Config(), ROOT, "/var/lib/micropod"),
        (None, {"HOME": "/h", "XDG_DATA_HOME": "/x"}, Config(), USER, "/x/micropod"),
        (None, {"HOME": "/h", "XDG_DATA_HOME": ""}, Config(), USER, "/h/.local/share/micropod"),
        (None, {"HOME": "/h", "XDG_DATA_HOME": "x"}, Config(), USER, "/h/.local/share/micropod"),
    ],
)
def test_the_store_is_where_the_first_that_speaks_up_says(
    option: str | Path | None, environment: dict[str, str], config: Config, uid: int, expected: str
) -> None:
    assert store_root(option, environment, config, uid) == Path(expected)


def test_a_relative_store_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_root("a", {}, Config(), USER) == tmp_path / "a"
    assert store_root(None, {"MICROPOD_ROOT": "b"}, Config(), USER) == tmp_path / "b"


@pytest.mark.parametrize(
    ("option", "environment", "message"),
    [
        ("", {"MICROPOD_ROOT": "/env"}, "--root is empty"),
        (None, {"MICROPOD_ROOT": ""}, "$MICROPOD_ROOT is empty"),
        (None, {}, "there is no home directory for the store"),
    ],
)
def test_a_store_without_a_place_is_refused(option: str | None, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        store_root(option, environment, Config(), 2**31)
    assert caught.value.message == message


def test_the_user_database_stands_in_for_home() -> None:
    assert home_directory({}, ROOT) == Path("/root")
    assert home_directory({"HOME": "/elsewhere"}, ROOT) == Path("/elsewhere")


@pytest.mark.parametrize("home", ["", ".", "home", "../home", "~"])
def test_a_home_that_is_not_absolute_is_none(home: str) -> None:
    assert home_directory({"HOME": home}, ROOT) == Path("/root")
    assert store_root(None, {"HOME": home, "XDG_DATA_HOME": home}, Config(), ROOT) == Path("/var/lib/micropod")


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("localhost", "localhost"),
        ("Registry.example:443", "Registry.example:443"),
        ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ("registry", None),
        ("", None),
        ("registry.example/team", None),
        ("user@registry.example", None),
        ("https://registry.example", None),
        ("registry.example\n", None),
    ],
)
def test_a_registry_is_told_from_what_is_none(text: str, domain: str | None) -> None:
    assert registry_domain(text) == domain
