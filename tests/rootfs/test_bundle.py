from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import pytest

from micropod_img.errors import IntegrityError, MicropodError, ToolError, UnsupportedError, UsageError
from micropod_img.rootfs.bundle import BundleOptions, MappedIds, make_bundle, runtime_spec
from micropod_img.rootfs.process_config import ProcessConfig
from micropod_img.rootfs.users import ProcessUser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | bool | None"

REF = "registry.example.com/app:1"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ALL_IDS = MappedIds(((0, 1 << 32),), ((0, 1 << 32),), may_set_groups=True)
ROOT = ProcessUser(0, 0, (0,), "/root")
SKELETON: Mapping[str, object] = {"mounts": [], "annotations": {}, "linux": {"namespaces": [], "resources": {}}}


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "pod/rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv/app:/bin/sh\n")
    (root / "etc/group").write_text("app:x:1001:\ndisk:x:6:app\n")
    return root


@pytest.fixture
def bundle(tmp_path: Path, rootfs: Path, program: Path) -> Callable[..., dict[str, Json]]:
    """Make the config.json of an image that says this of its process."""

    def make(options: BundleOptions | None = None, /, **config: object) -> dict[str, Json]:
        given = options or BundleOptions("pod-1")
        document = {"architecture": "arm64", "os": "linux", "config": {"Cmd": ["/bin/true"], **config}}
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        content = make_bundle(
            rootfs, given, config=json.dumps(document).encode(), ref=REF, umoci=program, workspace=workspace
        )
        made = json.loads(content)
        assert isinstance(made, dict)
        return made

    return make


def at(document: Json, *path: str | int) -> Json:
    """Walk down a document."""
    for key in path:
        if isinstance(document, dict) and isinstance(key, str):
            document = document[key]
        else:
            assert isinstance(document, list)
            assert isinstance(key, int)
            document = document[key]
    return document


@pytest.mark.parametrize(
    ("config", "args", "expected"),
    [
        pytest.param({"Cmd": ["a", "b"]}, None, ["a", "b"], id="command"),
        pytest.param({"Entrypoint": ["e"], "Cmd": ["a"]}, None, ["e", "a"], id="entrypoint and command"),
        pytest.param({"Entrypoint": ["e"], "Cmd": None}, None, ["e"], id="entrypoint"),
        pytest.param({"Cmd": ["a"]}, ["b", ""], ["b", ""], id="args instead of the command"),
        pytest.param({"Entrypoint": ["e"], "Cmd": ["a"]}, ["b"], ["e", "b"], id="args after the entrypoint"),
        pytest.param({"Entrypoint": ["e"], "Cmd": ["a"]}, [], ["e"], id="no args"),
    ],
)
def test_what_runs(
    bundle: Callable[..., dict[str, Json]], config: dict[str, object], args: list[str] | None, expected: list[str]
) -> None:
    assert at(bundle(BundleOptions("p", args=args), **config), "process", "args") == expected


@pytest.mark.parametrize("arguments", [["a\0b"], ["\udcff"]])
def test_an_argument_that_is_no_text_is_refused(bundle: Callable[..., dict[str, Json]], arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="argument"):
        bundle(BundleOptions("p", args=arguments))


def test_an_image_that_does_not_say_what_to_run_is_an_error_with_the_way_out(
    bundle: Callable[..., dict[str, Json]],
) -> None:
    with pytest.raises(UsageError) as refusal:
        bundle(Cmd=None)
    assert refusal.value.hint == "say it with --args"


@pytest.mark.parametrize(
    ("env", "user", "expected"),
    [
        pytest.param([], "", {"PATH": DEFAULT_PATH, "HOME": "/root"}, id="none"),
        pytest.param(["PATH=/b", "A=1", "A=2=3"], "", {"PATH": "/b", "A": "2=3", "HOME": "/root"}, id="the last wins"),
        pytest.param(["PATH=/b", "HOME=/x"], "app", {"PATH": "/b", "HOME": "/x"}, id="its own home"),
        pytest.param(["PATH=/b", "E="], "app", {"PATH": "/b", "E": "", "HOME": "/srv/app"}, id="a user's home"),
    ],
)
def test_the_environment(
    bundle: Callable[..., dict[str, Json]], env: list[str], user: str, expected: dict[str, str]
) -> None:
    variables = at(bundle(Env=env, User=user), "process", "env")
    assert isinstance(variables, list)
    assert dict(str(variable).split("=", 1) for variable in variables) == expected
    assert len(variables) == len(expected)


@pytest.mark.parametrize(
    ("config", "directory"),
    [("", "/"), ("/srv/app", "/srv/app"), ("srv//app/", "/srv/app"), ("//srv/../../app", "/app"), (None, "/")],
)
def test_the_working_directory_is_absolute_and_there(
    bundle: Callable[..., dict[str, Json]], rootfs: Path, config: str | None, directory: str
) -> None:
    assert at(bundle(WorkingDir=config), "process", "cwd") == directory
    assert (rootfs / directory.lstrip("/")).is_dir()


def test_a_user_is_looked_up_in_the_image(bundle: Callable[..., dict[str, Json]]) -> None:
    user = at(bundle(User="app"), "process", "user")
    assert user == {"uid": 1000, "gid": 1001, "additionalGids": [6, 1001]}


def test_an_unknown_user_is_an_error(bundle: Callable[..., dict[str, Json]]) -> None:
    with pytest.raises(UnsupportedError, match="nobody"):
        bundle(User="nobody")


def test_a_user_that_is_not_root_holds_no_capabilities(bundle: Callable[..., dict[str, Json]]) -> None:
    held = at(bundle(User="app"), "process", "capabilities")
    assert isinstance(held, dict)
    assert {key for key, names in held.items() if names} == {"bounding"}


def test_root_may_become_another_user_and_nothing_is_inherited(bundle: Callable[..., dict[str, Json]]) -> None:
    held = at(bundle(), "process", "capabilities")
    assert isinstance(held, dict)
    assert held["bounding"] == held["effective"] == held["permitted"]
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"} <= set(map(str, held["bounding"] or ()))  # type: ignore[arg-type]
    assert "CAP_SYS_ADMIN" not in str(held)
    assert held["inheritable"] == held["ambient"] == []


def test_volumes_are_not_hidden_and_their_directories_are_there(
    bundle: Callable[..., dict[str, Json]], rootfs: Path
) -> None:
    (rootfs / "data").mkdir()
    (rootfs / "data/file").touch()
    mounts = at(bundle(Volumes={"/data": {}, "/var/lib/app": {}}), "mounts")
    assert isinstance(mounts, list)
    assert not {"/data", "/var/lib/app"} & {str(at(mount, "destination")) for mount in mounts}
    assert (rootfs / "var/lib/app").is_dir()
    assert (rootfs / "data/file").exists()


def test_a_volume_that_links_out_of_the_image_makes_no_directory_outside(
    bundle: Callable[..., dict[str, Json]], rootfs: Path, tmp_path: Path
) -> None:
    (rootfs / "data").symlink_to("../..")
    bundle(Volumes={"/data/volume": {}})
    assert (rootfs / "volume").is_dir()
    assert not (tmp_path / "volume").exists()


def test_a_volume_where_a_file_is_is_an_error(bundle: Callable[..., dict[str, Json]]) -> None:
    with pytest.raises(UnsupportedError, match="'/etc/passwd' to be a directory"):
        bundle(Volumes={"/etc/passwd": {}})


def test_ports_and_stop_signal_are_annotations_and_labels_are_not(bundle: Callable[..., dict[str, Json]]) -> None:
    labels = {"run.oci.handler": "x", "org.opencontainers.image.stopSignal": "SIGKILL", "io.micropod.ref": "y"}
    document = bundle(ExposedPorts={"80/tcp": {}, "53/udp": {}}, StopSignal="SIGINT", Labels=labels)
    prefix = "org.opencontainers.image."
    assert at(document, "annotations") == {
        f"{prefix}architecture": "arm64",
        f"{prefix}exposedPorts": "53/udp,80/tcp",
        f"{prefix}os": "linux",
        f"{prefix}stopSignal": "SIGINT",
    }


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_there_only_when_it_is_asked_for(
    bundle: Callable[..., dict[str, Json]], *, terminal: bool
) -> None:
    process = at(bundle(BundleOptions("p", terminal=terminal)), "process")
    assert at(process, "terminal") is terminal
    assert ("TERM=xterm" in str(at(process, "env"))) is terminal


def test_a_read_only_pod_says_so_and_has_all_that_a_runtime_mounts_to(
    bundle: Callable[..., dict[str, Json]], rootfs: Path
) -> None:
    document = bundle(BundleOptions("p", read_only=True), Volumes={"/data": {}}, WorkingDir="/srv")
    assert at(document, "root") == {"path": "rootfs", "readonly": True}
    assert {path.name for path in rootfs.iterdir()} == {"data", "dev", "etc", "proc", "srv", "sys"}


@pytest.mark.parametrize(
    ("pod_id", "hostname"), [("web.1", "web.1"), ("a" * 128, "a" * 63), ("a" * 62 + "-b", "a" * 62)]
)
def test_the_host_name_is_the_pod_id_as_far_as_it_may(
    bundle: Callable[..., dict[str, Json]], pod_id: str, hostname: str
) -> None:
    assert at(bundle(BundleOptions(pod_id)), "hostname") == hostname


def test_proc_is_mounted_as_podman_does(bundle: Callable[..., dict[str, Json]]) -> None:
    mounts = at(bundle(), "mounts")
    assert isinstance(mounts, list)
    assert [at(one, "options") for one in mounts if at(one, "type") == "proc"] == [["nosuid", "noexec", "nodev"]]


def test_namespaces_keep_the_process_apart(bundle: Callable[..., dict[str, Json]]) -> None:
    namespaces = at(bundle(), "linux", "namespaces")
    assert isinstance(namespaces, list)
    assert {at(one, "type") for one in namespaces} >= {"pid", "mount", "ipc", "uts", "network"}
    assert all(at(one, "path") is None for one in namespaces if isinstance(one, dict) and "path" in one)


def test_the_same_image_gives_the_same_document(bundle: Callable[..., dict[str, Json]]) -> None:
    config = {"Env": ["B=1", "A=2"], "ExposedPorts": {"2/tcp": {}, "1/tcp": {}}, "User": "app"}
    assert json.dumps(bundle(**config)) == json.dumps(bundle(**config))


@pytest.mark.parametrize(
    "config",
    [
        {"User": 1000},
        {"User": "app\0"},
        {"Env": ["NAMELESS"]},
        {"Env": ["=x"]},
        {"Env": "A=b"},
        {"Env": ["A=\0"]},
        {"Cmd": "sh"},
        {"Cmd": [1]},
        {"Entrypoint": {}},
        {"WorkingDir": []},
        {"ExposedPorts": "80"},
        {"user": "app"},
        {"CMD": ["x"]},
        {"Env": ["A=b"] * 5000},
    ],
    ids=str,
)
def test_a_malformed_configuration_is_refused(
    bundle: Callable[..., dict[str, Json]], config: dict[str, object]
) -> None:
    with pytest.raises(IntegrityError) as refusal:
        bundle(**config)
    assert REF in refusal.value.message


def test_an_image_for_another_system_is_refused(tmp_path: Path, rootfs: Path, program: Path) -> None:
    with pytest.raises(UnsupportedError, match="is for windows"):
        make_bundle(rootfs, BundleOptions("p"), config=b'{"os": "windows"}', ref=REF, umoci=program, workspace=tmp_path)


@pytest.mark.parametrize("content", [b'{"architecture": "amd64", "config": null}', b"{}"])
def test_a_configuration_without_a_process_runs_what_is_asked_for(
    tmp_path: Path, rootfs: Path, program: Path, content: bytes
) -> None:
    options = BundleOptions("p", args=["/bin/sh"])
    made = make_bundle(rootfs, options, config=content, ref=REF, umoci=program, workspace=tmp_path)
    assert at(json.loads(made), "process", "args") == ["/bin/sh"]


def test_a_user_without_an_id_in_this_user_namespace_is_an_error() -> None:
    mapped = MappedIds(((0, 1),), ((0, 1),), may_set_groups=False)
    with pytest.raises(UnsupportedError, match="no such id") as refusal:
        runtime_spec(
            SKELETON,
            ProcessConfig(Cmd=("x",)),
            ProcessUser(1000, 0, (0,), "/"),
            BundleOptions("p"),
            mapped=mapped,
            ref=REF,
        )
    assert "/etc/subuid" in (refusal.value.hint or "")


def test_ids_that_are_not_mapped_are_left_out_where_they_are_no_loss() -> None:
    devpts = {"type": "devpts", "options": ["nosuid", "gid=5"]}
    made = runtime_spec(
        {**SKELETON, "mounts": [devpts]},
        ProcessConfig(Cmd=("x",)),
        ProcessUser(0, 0, (0, 6), "/"),
        BundleOptions("p"),
        mapped=MappedIds(((0, 1),), ((0, 1),), may_set_groups=False),
        ref=REF,
    )
    document = json.loads(json.dumps(made))
    assert at(document, "mounts", 0, "options") == ["nosuid"]
    assert at(document, "process", "user", "additionalGids") == []


@pytest.mark.parametrize(
    "broken", [{}, {**SKELETON, "mounts": {}}, {**SKELETON, "linux": []}, {**SKELETON, "mounts": [1]}]
)
def test_what_umoci_makes_is_checked(broken: Mapping[str, object]) -> None:
    with pytest.raises(ToolError, match="not understood"):
        runtime_spec(broken, ProcessConfig(Cmd=("x",)), ROOT, BundleOptions("p"), mapped=ALL_IDS, ref=REF)


def test_umoci_failing_is_a_tool_error_with_its_words(tmp_path: Path, rootfs: Path) -> None:
    failing = tmp_path / "umoci"
    failing.write_text("#!/bin/sh\necho 'no \033[31mluck' >&2\nexit 1\n")
    failing.chmod(0o755)
    with pytest.raises(MicropodError) as refusal:
        make_bundle(rootfs, BundleOptions("p", args=["x"]), config=b"{}", ref=REF, umoci=failing, workspace=tmp_path)
    assert (refusal.value.code, refusal.value.detail) == ("umoci-failed", r"no \x1b[31mluck")
