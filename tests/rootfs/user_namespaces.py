"""Run a program as root of a user namespace with 65,536 ids, as newuidmap makes it for users with subordinate ids."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from micropod_img.rootfs import syscalls

OWNER = 0
"""Who root in there is outside; another one could not read a Python that is in root's home."""


def run_python(code: str, *arguments: str | Path) -> int:
    """Run a Python program in there; return its status."""
    return _run([sys.executable, "-c", code, *map(str, arguments)])


def _run(argv: list[str]) -> int:
    ready, is_ready = os.pipe()
    mapped, is_mapped = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            os.write(is_ready, b".")
            os.read(mapped, 1)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted
        except BaseException:  # noqa: BLE001 - this is another process
            traceback.print_exc()
        finally:
            os._exit(125)
    assert os.read(ready, 1) == b"."
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{child}/{name}").write_text(f"0 {OWNER} 65536\n")
    os.write(is_mapped, b".")
    for descriptor in (ready, is_ready, mapped, is_mapped):
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
