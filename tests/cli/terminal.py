"""The program on a terminal of its own (pty(7)), and what a person sees there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

from tests.cli.command_line import PROGRAM, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_CHUNK = 1 << 16


class Terminal:
    """A running program and what it has written to its terminal so far."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.written = b""
        self._descriptor = descriptor

    @property
    def text(self) -> str:
        """All that was written, with line feeds as programs write them."""
        return self.written.decode().replace("\r\n", "\n")

    def wait_for(self, text: str, timeout: float = 20) -> None:
        """Read until the text has been written."""
        deadline = time.monotonic() + timeout
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.text!r}"
            assert self._read(0.1), f"{text!r} never came: {self.text!r}"

    def end(self, timeout: float = 30) -> int:
        """Read to the end; return the exit status."""
        deadline = time.monotonic() + timeout
        while self._read(0.1):
            assert time.monotonic() < deadline, self.text
        return self.process.wait(timeout)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._descriptor, keys)

    def echoes(self) -> bool:
        """Whether what is typed is shown (termios(3), ``ECHO``)."""
        return bool(termios.tcgetattr(self._descriptor)[3] & termios.ECHO)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return True
        try:
            chunk = os.read(self._descriptor, _CHUNK)
        except OSError:  # how Linux says that nobody has the other side open
            return False
        self.written += chunk
        return bool(chunk)


@contextlib.contextmanager
def on_terminal(
    *arguments: str | Path, extra: Mapping[str, str] | None = None, width: int = 100, height: int = 30
) -> Iterator[Terminal]:
    """Run the program on a terminal until the block ends."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        env=environment(extra),
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - Ctrl-C reaches whose terminal it is
    )
    os.close(inner)
    try:
        yield Terminal(process, outer)
    finally:
        process.kill()
        process.wait()
        os.close(outer)
