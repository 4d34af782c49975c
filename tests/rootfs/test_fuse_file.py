"""One file whose bytes come from a function, as other processes see it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from micropod_img.cancellation import Cancellation
from micropod_img.rootfs import fuse_file, syscalls
from micropod_img.rootfs.fuse_file import FuseUnavailableError, served_file
from micropod_img.rootfs.mountinfo import mounted_at
from micropod_img.rootfs.passage import NotPassedError
from micropod_img.rootfs.private_mounts import in_private_mounts
from tests.rootfs.unpacking import as_root
from tests.support.layers import MIB
from tests.support.processes import PROMPTLY, run

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = as_root

Result = TypeVar("Result")

LAST_BYTES = 123  # no whole page


class Source:
    """Bytes that are given when they are asked for; it remembers what was asked, and by which threads.

    Args:
        content: All of them.
        failure: Is raised instead, from an offset on.
        fails_from: That offset.
    """

    def __init__(self, content: bytes, *, failure: Exception | None = None, fails_from: int = 0) -> None:
        self.content = content
        self.asked: list[tuple[int, int]] = []
        self.threads: set[str] = set()
        self._failure = failure
        self._fails_from = fails_from

    def read(self, offset: int, size: int) -> bytes:
        self.asked.append((offset, size))
        self.threads.add(threading.current_thread().name)
        if self._failure is not None and offset + size > self._fails_from:
            raise self._failure
        return self.content[offset : offset + size]


class LateSource(Source):
    """Gives nothing before it is let."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.is_asked = threading.Event()
        self.may_give = threading.Event()

    def read(self, offset: int, size: int) -> bytes:
        self.is_asked.set()
        assert self.may_give.wait(PROMPTLY)
        return super().read(offset, size)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty file."""
    made = tmp_path / "file"
    made.touch()
    return made


def while_served(path: Path, source: Source, use: Callable[[], Result]) -> Result:
    """Do something with a served file, where it is seen; look that nothing of it is left."""

    def work() -> Result:
        open_before = open_files()
        try:
            with served_file(path, len(source.content), source.read):
                return use()
        finally:
            assert mounted_at(path) is None
            assert path.read_bytes() == b""
            assert "fuse-file" not in {thread.name for thread in threading.enumerate()}
            assert open_files() == open_before

    return in_private_mounts(work, Cancellation())


def open_files() -> set[str]:
    """The descriptors of this process that lead to a device of FUSE or to an eventfd."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:  # the one of the listing itself
            continue
        if target == "/dev/fuse" or "eventfd" in target:
            found.add(f"{descriptor.name} {target}")
    return found


def start_reading(path: Path) -> subprocess.Popen[bytes]:
    """Let another process read all; to be called where the file is seen."""
    return subprocess.Popen(["/bin/cat", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def sha256_elsewhere(path: Path) -> str:
    return run("sha256sum", path, timeout=PROMPTLY).stdout.split()[0]


def test_another_process_reads_all_bytes_in_order_and_asks_one_thread_for_nothing_else(path: Path) -> None:
    source = Source(os.urandom(5 * MIB + LAST_BYTES))
    assert while_served(path, source, lambda: sha256_elsewhere(path)) == hashlib.sha256(source.content).hexdigest()
    assert all(size > 0 and offset + size <= len(source.content) for offset, size in source.asked)
    assert sum(size for _, size in source.asked) == len(source.content)
    assert source.threads == {"fuse-file"}


def test_it_looks_like_a_read_only_file_of_the_size_that_was_said(path: Path) -> None:
    source = Source(bytes(MIB + LAST_BYTES))
    status = while_served(path, source, path.stat)
    assert (status.st_size, status.st_nlink, oct(status.st_mode)) == (MIB + LAST_BYTES, 1, "0o100444")
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    assert status.st_blocks * 512 >= status.st_size
    assert source.asked == []


def test_a_file_without_a_byte_is_read_without_a_question(path: Path) -> None:
    source = Source(b"")
    read = while_served(path, source, lambda: run("cat", path, timeout=PROMPTLY))
    assert (read.returncode, read.stdout, source.asked) == (0, "", [])


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 3 * 4096 + 1])
def test_a_file_of_a_few_pages_ends_where_it_ends(size: int, path: Path) -> None:
    source = Source(os.urandom(size))
    assert while_served(path, source, lambda: sha256_elsewhere(path)) == hashlib.sha256(source.content).hexdigest()


def test_parts_are_read_from_anywhere(path: Path) -> None:
    source = Source(os.urandom(12 * MIB + LAST_BYTES))
    ranges = [(11 * MIB, 10), (0, 100), (5 * MIB - 3, 8192), (12 * MIB, 4096), (12 * MIB + LAST_BYTES, 5), (7, 1)]

    def read() -> list[bytes]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return [os.pread(descriptor, size, offset) for offset, size in ranges]
        finally:
            os.close(descriptor)

    assert while_served(path, source, read) == [source.content[offset : offset + size] for offset, size in ranges]


def test_a_reader_waits_until_there_is_something_for_it(path: Path) -> None:
    source = LateSource(os.urandom(MIB))

    def use() -> bytes:
        reader = start_reading(path)
        assert source.is_asked.wait(PROMPTLY)
        assert reader.poll() is None
        assert source.asked == []
        source.may_give.set()
        return reader.communicate(timeout=PROMPTLY)[0]

    assert while_served(path, source, use) == source.content


@pytest.mark.parametrize(
    "failure",
    [NotPassedError(), ValueError("odd"), OSError("without a number"), OSError(errno.ENOSPC, "full")],
    ids=["not passed", "any", "of the system, without a number", "of the system"],
)
def test_what_is_raised_is_an_input_output_error_for_the_reader(failure: Exception, path: Path) -> None:
    source = Source(bytes(MIB), failure=failure)

    def use() -> int:
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            path.read_bytes()
        return caught.value.errno or 0

    assert errno.errorcode[while_served(path, source, use)] == "EIO"


def test_a_reader_has_got_what_comes_before_an_error(path: Path) -> None:
    source = Source(os.urandom(4 * MIB), failure=NotPassedError(), fails_from=3 * MIB)

    def use() -> tuple[bytes, bytes]:
        return start_reading(path).communicate(timeout=PROMPTLY)

    output, said = while_served(path, source, use)
    assert output == source.content[: 3 * MIB]
    assert said.strip().endswith(b"Input/output error")


def test_all_bytes_of_a_large_file_are_right_though_those_behind_are_dropped_meanwhile(path: Path) -> None:
    source = Source(os.urandom(40 * MIB + LAST_BYTES))

    def use() -> list[str]:
        first = sha256_elsewhere(path)
        assert source.asked.count(source.asked[0]) == 1
        again = sha256_elsewhere(path)
        assert source.asked.count(source.asked[0]) == 2, "it was not dropped"
        return [first, again]

    assert while_served(path, source, use) == [hashlib.sha256(source.content).hexdigest()] * 2


def test_two_readers_get_the_same(path: Path) -> None:
    source = Source(os.urandom(3 * MIB + LAST_BYTES))  # small enough that nothing is dropped

    def use() -> list[bytes]:
        return [reader.communicate(timeout=PROMPTLY)[0] for reader in [start_reading(path), start_reading(path)]]

    assert while_served(path, source, use) == [source.content] * 2


def test_a_reader_that_is_killed_while_it_waits_leaves_nothing(path: Path) -> None:
    source = LateSource(bytes(MIB))

    def use() -> int:
        reader = start_reading(path)
        assert source.is_asked.wait(PROMPTLY)
        reader.kill()
        source.may_give.set()
        reader.communicate(timeout=PROMPTLY)
        return reader.returncode

    assert while_served(path, source, use) == -9


def test_the_file_is_served_on_when_a_reader_was_killed(path: Path) -> None:
    source = LateSource(os.urandom(MIB))

    def use() -> str:
        reader = start_reading(path)
        assert source.is_asked.wait(PROMPTLY)
        reader.kill()
        source.may_give.set()
        reader.communicate(timeout=PROMPTLY)
        return sha256_elsewhere(path)

    assert while_served(path, source, use) == hashlib.sha256(source.content).hexdigest()


def test_who_has_the_file_open_at_the_end_gets_errors_and_does_not_wait(path: Path) -> None:
    source = Source(os.urandom(8 * MIB))
    descriptors: list[int] = []
    while_served(path, source, lambda: descriptors.append(os.open(path, os.O_RDONLY)))
    with pytest.raises(OSError, match=r"\[Errno"):
        os.pread(descriptors[0], 10, 7 * MIB)
    with contextlib.suppress(OSError):  # it is closed, and nobody is left who could be told
        os.close(descriptors[0])


def test_an_error_in_the_block_is_raised_when_all_is_gone(path: Path) -> None:
    def use() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        while_served(path, Source(bytes(MIB)), use)


def test_it_is_seen_in_its_own_mount_namespace_only(path: Path) -> None:
    source = LateSource(bytes(10))
    is_served, is_looked_at = threading.Event(), threading.Event()

    def look() -> None:
        assert is_served.wait(PROMPTLY)
        sizes.append(path.stat().st_size)
        is_looked_at.set()

    def use() -> int:
        is_served.set()
        assert is_looked_at.wait(PROMPTLY)
        return path.stat().st_size

    sizes: list[int] = []
    outside = threading.Thread(target=look)
    outside.start()
    assert while_served(path, source, use) == 10
    outside.join(PROMPTLY)
    assert sizes == [0]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.open(path, os.O_WRONLY),
        lambda path: os.open(path, os.O_RDWR),
        lambda path: os.truncate(path, 1),
        lambda path: path.chmod(0o777),
        os.utime,
    ],
    ids=["write", "read and write", "truncate", "chmod", "utime"],
)
def test_it_cannot_be_changed(change: Callable[[Path], object], path: Path) -> None:
    def use() -> int:
        with pytest.raises(OSError, match="Read-only file system") as caught:
            change(path)
        return caught.value.errno or 0

    assert while_served(path, Source(bytes(MIB)), use) == errno.EROFS


def test_without_a_device_nothing_can_be_served(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_file, "_DEVICE", str(tmp_path / "none"))
    assert isinstance(refusal(path), FileNotFoundError)


def test_where_mounting_is_refused_nothing_can_be_served(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(syscalls, "mount", refuse)
    assert isinstance(refusal(path, private=False), PermissionError)


@pytest.mark.parametrize(("name", "number"), [("", errno.ENOTDIR), ("nowhere", errno.ENOENT)])
def test_what_the_kernel_does_not_mount_is_not_served(name: str, number: int, tmp_path: Path) -> None:
    assert refusal(tmp_path / name).errno == number


def refusal(path: Path, *, private: bool = True) -> OSError:
    """Return why a file cannot be served; look that nothing is left of the attempt."""

    def work() -> OSError:
        before = open_files()
        with pytest.raises(FuseUnavailableError) as caught, served_file(path, MIB, Source(b"").read):
            pass
        assert open_files() == before
        assert isinstance(caught.value.__cause__, OSError)
        return caught.value.__cause__

    return in_private_mounts(work, Cancellation()) if private else work()
