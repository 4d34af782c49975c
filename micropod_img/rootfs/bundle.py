"""``config.json`` of a pod, with which any OCI runtime starts it (OCI runtime-spec; image-spec, conversion.md).

umoci makes the part that is the same for all images. It is told what of the image is safe to be told; who the process
is, what it runs and with which rights is written here, since umoci without a root filesystem makes root of a user's
name, hides the files of a volume, and asks for a terminal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import run
from micropod_img.errors import ToolError, UnsupportedError, UsageError
from micropod_img.fsutil import disk_errors
from micropod_img.rootfs.confined import ConfinedRoot
from micropod_img.rootfs.private_layout import TAG, write_layout
from micropod_img.rootfs.process_config import parse_runnable_config
from micropod_img.rootfs.quoting import printable
from micropod_img.rootfs.users import read_account_files, resolve_user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from micropod_img.rootfs.process_config import ProcessConfig, RunnableConfig
    from micropod_img.rootfs.users import ProcessUser

_OS: Final = "linux"
_LONGEST_HOSTNAME: Final = 63
_DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNT_POINTS: Final = ("/dev", "/proc", "/sys")
_TTY_GROUP: Final = 5
_LARGEST_ID: Final = (1 << 32) - 2

_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""Podman's default. umoci's three do not let a service that starts as root become its own user."""

_MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
"""What containerd and podman hide; umoci's list is without the keys of other containers and the power meter."""

_READ_ONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_ANNOTATIONS: Final = frozenset(
    f"org.opencontainers.image.{name}" for name in ("os", "architecture", "exposedPorts", "stopSignal")
)


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """What the caller of a bundle decides.

    Attributes:
        pod_id: Becomes the hostname, cut to 63 characters.
        args: Instead of the image's ``Cmd``; its entrypoint stays in front, as with podman and docker.
        read_only: Whether the root filesystem may not be written.
        terminal: Whether the process gets a terminal.
    """

    pod_id: str
    args: Sequence[str] | None = None
    read_only: bool = False
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class MappedIds:
    """User and group ids that exist in this user namespace, as (first, count)."""

    users: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, int], ...]
    may_set_groups: bool

    @property
    def are_all(self) -> bool:
        """Whether this is the machine's own user namespace."""
        return self.has_user(_LARGEST_ID) and self.has_user(0)

    def has_user(self, uid: int) -> bool:
        """Whether a process can have this user id here."""
        return any(first <= uid < first + count for first, count in self.users)

    def has_group(self, gid: int) -> bool:
        """Whether a process can have this group id here."""
        return any(first <= gid < first + count for first, count in self.groups)


def make_bundle(
    rootfs: Path, options: BundleOptions, *, config: bytes, ref: str, umoci: Path, workspace: Path
) -> bytes:
    """Make the ``config.json`` that stands beside ``rootfs`` in a bundle.

    Directories that the image names and does not have (its working directory, its volumes) are made in the root
    filesystem, which must be writable; for a process that may not write also those where a runtime mounts something.

    Args:
        rootfs: The root filesystem, mounted; its account files are read as they are seen from inside.
        options: What the caller decides.
        config: The image's configuration, its digest checked.
        ref: What to call the image in errors.
        umoci: The program.
        workspace: A directory that is nobody else's, for umoci's work.

    Returns:
        The document, the same for the same image, files and options.

    Raises:
        UsageError: There is nothing to run, or an argument is no text.
        UnsupportedError: The image's user is unknown in it, or has no id here; or the image is not for Linux.
        IntegrityError: The configuration is malformed.
        UnsafeError: The image's account files are out of proportion.
        DiskError: The root filesystem or the workspace cannot be used.
        ToolError: umoci failed.
    """
    described = parse_runnable_config(config, name=ref)
    if described.os not in ("", _OS):
        raise UnsupportedError(f"{ref} is for {printable(described.os)} and cannot run here", code="foreign-platform")
    image = described.config
    with disk_errors(rootfs), ConfinedRoot(rootfs) as root:
        user = resolve_user(image.user, read_account_files(root))
        wanted = (image.directory, *image.volume_directories, *(_MOUNT_POINTS if options.read_only else ()))
        _make_directories(root, wanted, ref)
    skeleton = _umoci_runtime_config(described, umoci=umoci, workspace=workspace)
    document = runtime_spec(skeleton, image, user, options, mapped=read_mapped_ids(), ref=ref)
    return json.dumps(document, indent=2).encode() + b"\n"


def runtime_spec(
    skeleton: Mapping[str, object],
    image: ProcessConfig,
    user: ProcessUser,
    options: BundleOptions,
    *,
    mapped: MappedIds,
    ref: str,
) -> dict[str, object]:
    """Correct what umoci made.

    Args:
        skeleton: umoci's document.
        image: How the image wants its process to run.
        user: Who that process is.
        options: What the caller decides.
        mapped: Ids that exist here.
        ref: What to call the image in errors.

    Returns:
        A configuration of runtime-spec 1.0. Namespaces are umoci's: all but the user's and time's, the network empty
        until somebody sets it up. A runtime that is started in the user namespace that the ids are of needs none more.

    Raises:
        UsageError: There is nothing to run, or an argument is no text.
        UnsupportedError: The user has no id here.
        ToolError: umoci's document is not what it should be.
    """
    if not (mapped.has_user(user.uid) and mapped.has_group(user.gid)):
        raise UnsupportedError(
            f"{ref} runs as {user.uid}:{user.gid}, and there is no such id in this user namespace",
            code="user-not-mapped",
            hint="give the user more subordinate ids in /etc/subuid and /etc/subgid",
        )
    linux = _object(skeleton, "linux")
    # Who is not the machine's root has no control group to limit it with, and devices cannot be made at all.
    limits = {"resources": _object(linux, "resources")} if mapped.are_all else {}
    annotations = _object(skeleton, "annotations")
    return {
        "ociVersion": "1.0.2",  # nothing newer is used, and older runtimes refuse a newer number
        "hostname": options.pod_id[:_LONGEST_HOSTNAME].rstrip("-._"),
        "root": {"path": "rootfs", "readonly": options.read_only},
        "process": _process(image, user, options, mapped, ref),
        "mounts": [_mount(item, mapped) for item in _list(skeleton, "mounts")],
        "annotations": {
            key: annotations[key] for key in sorted(annotations) if key in _ANNOTATIONS and annotations[key]
        },
        "linux": {
            "namespaces": _list(linux, "namespaces"),
            **limits,
            "maskedPaths": list(_MASKED_PATHS),
            "readonlyPaths": list(_READ_ONLY_PATHS),
        },
    }


def read_mapped_ids() -> MappedIds:
    """Return the ids that exist in this process's user namespace (user_namespaces(7))."""
    may_set_groups = Path("/proc/self/setgroups").read_text(encoding="ascii").strip() == "allow"
    return MappedIds(_ranges("uid_map"), _ranges("gid_map"), may_set_groups=may_set_groups)


def _ranges(name: str) -> tuple[tuple[int, int], ...]:
    lines = Path("/proc/self", name).read_text(encoding="ascii").splitlines()
    return tuple((int(first), int(count)) for first, _, count in map(str.split, lines))


def _process(
    image: ProcessConfig, user: ProcessUser, options: BundleOptions, mapped: MappedIds, ref: str
) -> dict[str, object]:
    # A process that is not root gets its rights from setuid programs and file capabilities only, as with podman.
    held = list(_CAPABILITIES) if user.uid == 0 else []
    groups = [gid for gid in user.groups if mapped.has_group(gid)] if mapped.may_set_groups else []
    return {
        "terminal": options.terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": groups},
        "args": _arguments(image, options, ref),
        "env": _environment(image, user, terminal=options.terminal),
        "cwd": image.directory,
        "capabilities": {
            "bounding": list(_CAPABILITIES),
            "effective": held,
            "permitted": held,
            # Inheritable ones would let a program of the image gain them on exec (CVE-2022-24769).
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": False,
    }


def _arguments(image: ProcessConfig, options: BundleOptions, ref: str) -> list[str]:
    arguments = [*image.entrypoint, *(image.cmd if options.args is None else options.args)]
    if not arguments:
        raise UsageError(f"{ref} does not say what to run", code="no-command", hint="say it with --args")
    if any("\0" in argument or not _is_text(argument) for argument in arguments):
        raise UsageError("an argument of a process is text without NUL", code="invalid-argument")
    return arguments


def _environment(image: ProcessConfig, user: ProcessUser, *, terminal: bool) -> list[str]:
    variables = {variable.partition("=")[0]: variable for variable in image.env}
    variables.setdefault("PATH", _DEFAULT_PATH)
    variables.setdefault("HOME", f"HOME={user.home}")
    if terminal:
        variables.setdefault("TERM", "TERM=xterm")
    return list(variables.values())


def _mount(item: object, mapped: MappedIds) -> dict[str, object]:
    if not isinstance(item, dict):
        raise _not_understood("mounts")
    options = item.get("options")
    if item.get("type") == "proc" and not options:
        return {**item, "options": ["nosuid", "noexec", "nodev"]}  # as everybody mounts it but umoci
    if item.get("type") == "devpts" and isinstance(options, list) and not mapped.has_group(_TTY_GROUP):
        return {**item, "options": [option for option in options if option != f"gid={_TTY_GROUP}"]}
    return dict(item)


def _make_directories(root: ConfinedRoot, directories: Sequence[str], ref: str) -> None:
    for directory in directories:
        try:
            root.make_directory(directory)
        except (NotADirectoryError, FileExistsError) as error:
            raise UnsupportedError(
                f"{ref} wants {printable(directory)!r} to be a directory, and has something else there",
                code="not-a-directory",
            ) from error


def _umoci_runtime_config(image: RunnableConfig, *, umoci: Path, workspace: Path) -> dict[str, object]:
    """Let umoci write a configuration: of what the image says, only what needs no correction."""
    described = {
        "architecture": image.architecture,
        "os": _OS,
        "config": {
            "ExposedPorts": {port: {} for port in image.config.exposed_ports},
            "StopSignal": image.config.stop_signal,
        },
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    made = workspace / "config.json"
    with disk_errors(workspace):
        write_layout(workspace / "image", described)
        made.unlink(missing_ok=True)
        argv = [str(umoci), "--log=error", "raw", "runtime-config", "--image", f"image:{TAG}", made.name]
        try:
            completed = run.run(argv, env={}, cwd=workspace)
        except run.ProgramNotFoundError as error:
            raise ToolError(f"{umoci} cannot be started", code="tool-missing") from error
        if completed.status != 0:
            said = "\n".join(map(printable, completed.stderr.splitlines()))
            raise ToolError("umoci could not make a runtime configuration", code="umoci-failed", detail=said)
        content = made.read_bytes()
    try:
        document = json.loads(content)
    except ValueError as error:
        raise _not_understood("it is not JSON") from error
    if not isinstance(document, dict):
        raise _not_understood("it is no object")
    return document


def _object(parent: Mapping[str, object], key: str) -> dict[str, object]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise _not_understood(key)
    return value


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # the command line's bytes that are not UTF-8
        return False
    return True


def _list(parent: Mapping[str, object], key: str) -> list[object]:
    value = parent.get(key)
    if not isinstance(value, list):
        raise _not_understood(key)
    return value


def _not_understood(what: str) -> ToolError:
    return ToolError(f"umoci's runtime configuration is not understood: {what}", code="umoci-output")
