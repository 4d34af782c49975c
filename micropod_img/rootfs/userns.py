"""The user namespace of an ordinary user's store, in which its overlays are mounted (user_namespaces(7)).

Only root may mount, and an ordinary user is root in a user namespace of their own. Mounts live as long as their
namespace, and that as long as a process in it: one that sleeps, one for each store. It is started when it is first
needed, and joined by every command that mounts (docs/adr, "What holds an ordinary user's mounts").
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import fsutil, run
from micropod_img.errors import ConflictError, MicropodError, UnsupportedError
from micropod_img.invoker import INVOKING_UID
from micropod_img.locks import Patience, locked, signed
from micropod_img.rootfs import syscalls
from micropod_img.rootfs.programs import find_program
from micropod_img.rootfs.subordinate_ids import IdRange, subordinate_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from micropod_img.locks import WaitObserver
    from micropod_img.store.layout import StoreLayout

_PROC: Final = Path("/proc")
_BOOT_ID: Final = _PROC / "sys/kernel/random/boot_id"
_START_TIME: Final = 19  # proc_pid_stat(5), field 22, counted from behind the name
_RECORD_FIELDS: Final = 4
_FREE_ATTEMPTS: Final = 100
_FREE_SECONDS: Final = 0.02
_THREAD_ATTEMPTS: Final = 2500
_THREAD_SECONDS: Final = 0.002
# It must keep nothing busy: not the folder that it was started in, not the terminal, not the pipe that told its id.
_SLEEP: Final = 'cd / && echo $$ && exec "$0" infinity </dev/null >/dev/null 2>&1'

COST_OF_ONE_ID: Final = (
    "there are no subordinate ids for you in /etc/subuid and /etc/subgid, or newuidmap (package uidmap) is missing: "
    "all files will belong to you, and images that need another user than root will not run"
)


@dataclass(frozen=True, slots=True)
class NamespaceHolder:
    """What keeps a namespace: process id, start (clock ticks since boot), boot, and inode of the mount namespace."""

    pid: int
    started: int
    boot: str
    inode: int

    def lives(self) -> bool:
        """Whether this very process is there, and not another one with its id."""
        try:
            return self == _describe(self.pid)
        except (OSError, IndexError, ValueError):
            return False


@dataclass(frozen=True, slots=True)
class Entered:
    """What `enter` did: whether the namespace is new, and a sentence for the user about it, or none."""

    new: bool
    notice: str | None


def find_holder(layout: StoreLayout) -> NamespaceHolder | None:
    """Return what holds a store's namespace now, or None if nothing does: then nothing of it is mounted."""
    try:
        fields = _record(layout).read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise fsutil.disk_error(error, _record(layout)) from error
    if len(fields) != _RECORD_FIELDS or not all(fields[place].isdecimal() for place in (0, 1, 3)):
        return None
    holder = NamespaceHolder(int(fields[0]), int(fields[1]), fields[2], int(fields[3]))
    return holder if holder.lives() else None


def enter(layout: StoreLayout, on_wait: WaitObserver | None = None) -> Entered:
    """Become root in the store's namespace, which is made if it is not there; for root, and inside, nothing happens.

    The whole process enters, and for good: it sees the store's mounts, its files keep their owner, and its working
    directory stays. Its environment gets `INVOKING_UID`.

    Args:
        layout: The store, which is made if it is not there.
        on_wait: Is told of a wait for another process that makes it.

    Raises:
        ConflictError: This process has several threads, and Linux lets none of them enter; or the store's namespace is
            held where this process cannot see it.
        UnsupportedError: User namespaces are not allowed here.
        DiskError: The store cannot be written.
        ToolError: A program of util-linux is missing.
    """
    if os.geteuid() == 0:
        return Entered(new=False, notice=None)
    _await_single_thread()
    holder, new = find_holder(layout), False
    notice: str | None = None
    if holder is None:
        layout.prepare(on_wait)
        path = layout.locks / "namespace.lock"
        patience = Patience("the user namespace", on_wait)
        with fsutil.disk_errors(path), locked(path, patience, owner=signed("making the user namespace")):
            holder = find_holder(layout)
            if holder is None:
                holder, notice = _start(layout)
                new = True
    _join(holder)
    return Entered(new, notice)


def stop(layout: StoreLayout) -> None:
    """End what holds the store's namespace; once the last process in it has ended, its mounts are gone.

    Args:
        layout: The store.
    """
    holder = find_holder(layout)
    if holder is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGKILL)


def _record(layout: StoreLayout) -> Path:
    return layout.locks / "namespace"


def _describe(pid: int) -> NamespaceHolder:
    # The name may hold anything, also ") R 1".
    fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    inode = (_PROC / str(pid) / "ns/mnt").stat().st_ino  # a zombie has none
    return NamespaceHolder(pid, int(fields[_START_TIME]), _BOOT_ID.read_text(encoding="ascii").strip(), inode)


def _await_single_thread() -> None:
    """Wait for threads that have ended in Python, and in the kernel not quite yet; refuse others."""
    for _ in range(_THREAD_ATTEMPTS):
        threads = sum(1 for _ in (_PROC / "self/task").iterdir())
        if threads == 1:
            return
        if threading.active_count() > 1:
            break
        time.sleep(_THREAD_SECONDS)
    raise ConflictError(
        f"this process has {threads} threads, and only one with a single thread can enter a user namespace",
        code="threads",
        hint="make pods before threads are started, in a process of their own, or start the program with "
        "micropod-img unshare",
    )


def _join(holder: NamespaceHolder) -> None:
    uid = os.geteuid()
    working_directory = Path.cwd()
    namespaces = _PROC / str(holder.pid) / "ns"
    _await_single_thread()  # starting the holder took some
    with contextlib.ExitStack() as stack:
        try:
            user, mounts = (stack.enter_context(_opened(namespaces / name)) for name in ("user", "mnt"))
            _check(mounts, holder)
            syscalls.setns(user, syscalls.CLONE_NEWUSER)
            syscalls.setns(mounts, syscalls.CLONE_NEWNS)
        except (ProcessLookupError, FileNotFoundError) as error:
            raise ConflictError(
                "the process that holds the user namespace has just ended",
                code="namespace-gone",
                hint="try again",
                retryable=True,
            ) from error
        except OSError as error:
            raise not_allowed(str(error)) from error
    os.environ[INVOKING_UID] = str(uid)
    os.chdir(working_directory)


def _check(descriptor: int, holder: NamespaceHolder) -> None:
    """Refuse the namespace of another process: this one may have ended, and its id be taken, since it was found."""
    if os.fstat(descriptor).st_ino != holder.inode:
        raise ProcessLookupError(holder.pid)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _start(layout: StoreLayout) -> tuple[NamespaceHolder, str | None]:
    """Start the process that holds the namespace; only with the lock on that."""
    path = _record(layout)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # The process keeps this lock for as long as it lives, wherever that is.
        if not fsutil.try_lock(descriptor):
            _end_unrecorded(descriptor)
            if not _freed(descriptor):
                raise ConflictError(
                    f"{layout.root} is in use by this user in another container",
                    code="namespace-elsewhere",
                    hint="use it there, or choose another --root",
                )
        os.ftruncate(descriptor, 0)
        try:
            pid = _spawn(descriptor)
        except BaseException:
            fsutil.insist(lambda: _end_unrecorded(descriptor))  # it may have come to that
            raise
        try:
            notice = _map_ids(pid)
            holder = _describe(pid)
            os.pwrite(descriptor, f"{holder.pid} {holder.started} {holder.boot} {holder.inode}\n".encode(), 0)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        return holder, notice
    finally:
        os.close(descriptor)


def _spawn(lock: int) -> int:
    programs = {name: find_program(name, package="util-linux") for name in ("setsid", "unshare")}
    argv = [programs["setsid"], "--fork", programs["unshare"], "--user", "--mount"]
    # What is unmounted outside is not kept busy in here; nothing in here reaches the outside.
    argv += ["--propagation", "slave", "--", "/bin/sh", "-c", _SLEEP, find_program("sleep", package="coreutils")]
    completed = run.run(argv, env={}, pass_fds=[lock], timeout=60)
    if not completed.stdout.strip().isdigit():
        raise not_allowed(completed.stderr)
    return int(completed.stdout)


def _map_ids(pid: int) -> str | None:
    """Say which ids there are in the namespace of a process; return what it costs that there are few."""
    uid, gid = os.geteuid(), os.getegid()
    users, groups = subordinate_ids("subuid", uid), subordinate_ids("subgid", uid)
    try:
        programs = (
            [find_program(name, package="uidmap") for name in ("newuidmap", "newgidmap")] if users and groups else []
        )
    except MicropodError:
        programs = []
    if not programs:
        try:
            (_PROC / str(pid) / "setgroups").write_text("deny")  # user_namespaces(7): first of all
            (_PROC / str(pid) / "uid_map").write_text(f"0 {uid} 1\n")
            (_PROC / str(pid) / "gid_map").write_text(f"0 {gid} 1\n")
        except OSError as error:
            raise not_allowed(str(error)) from error
        return COST_OF_ONE_ID
    for program, own, ranges in zip(programs, (uid, gid), (users, groups), strict=True):
        completed = run.run([program, str(pid), *map(str, _mapping(own, ranges))], env={}, timeout=60)
        if completed.status != 0:
            raise UnsupportedError(
                "the subordinate ids of this user cannot be used",
                code="subordinate-ids",
                hint=f"{program} must be setuid root or have its file capabilities, and the ranges in /etc/subuid and "
                "/etc/subgid must not overlap",
                detail=completed.stderr,
            )
    return None


def _mapping(own: int, ranges: tuple[IdRange, ...]) -> Iterator[int]:
    """Yield the triples of a mapping: the user's own id is 0 inside, the subordinate ones follow."""
    yield from (0, own, 1)
    inside = 1
    for each in ranges:
        yield from (inside, each.first, each.count)
        inside += each.count


def _end_unrecorded(descriptor: int) -> None:
    """End a process that holds the lock and that nothing is known of: whoever started it was killed on the way."""
    wanted = os.fstat(descriptor)
    for directory in _PROC.iterdir():
        if directory.name.isdecimal() and int(directory.name) != os.getpid():
            with contextlib.suppress(OSError):
                if any(_has_locked(link, wanted) for link in (directory / "fd").iterdir()):
                    os.kill(int(directory.name), signal.SIGKILL)


def _has_locked(link: Path, wanted: os.stat_result) -> bool:
    """Whether a descriptor of a process holds the lock on a file; commands that read the file have it open as well."""
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        opened = link.stat()
        if (opened.st_dev, opened.st_ino) == (wanted.st_dev, wanted.st_ino):
            return "\nlock:" in (link.parent.parent / "fdinfo" / link.name).read_text(encoding="ascii")
    return False


def _freed(descriptor: int) -> bool:
    """Wait a moment for a lock whose holder was ended."""
    for _ in range(_FREE_ATTEMPTS):
        if fsutil.try_lock(descriptor):
            return True
        time.sleep(_FREE_SECONDS)
    return False


def not_allowed(detail: str) -> UnsupportedError:
    """Return the error for a system that lets this user have no user namespace; the detail is what it said."""
    return UnsupportedError(
        "user namespaces are not allowed here, and without one only root can mount",
        code="no-user-namespace",
        hint="see the settings user.max_user_namespaces, kernel.unprivileged_userns_clone and "
        "kernel.apparmor_restrict_unprivileged_userns (sysctl); in a container, its seccomp profile",
        detail=detail.strip(),
    )
