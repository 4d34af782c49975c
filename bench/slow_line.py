"""A proxy on loopback that lets through so many bytes a second in all, whatever the number of connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 64 << 10
_BURST_SECONDS = 0.01


class _Line:
    """Hands out turns to send, first come, first served, as a line with a fair queue does.

    Args:
        bytes_per_second: What goes through, of all connections together.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0
        self._lock = threading.Lock()

    def pass_through(self, size: int) -> None:
        """Wait until the line has sent so many bytes."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_SECONDS) + size / self._rate
            delay = self._free_at - now
        if delay > 0:
            time.sleep(delay)


@contextlib.contextmanager
def slow_line(target: str, bytes_per_second: float) -> Iterator[str]:
    """Forward connections to ``host:port``, what comes back at a limited rate; yield the proxy's ``host:port``."""
    host, _, port = target.partition(":")
    line = _Line(bytes_per_second)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # closed: the end
                    return
                registry = socket.create_connection((host, int(port)))
                for arguments in ((client, registry, None), (registry, client, line)):
                    threading.Thread(target=_copy, args=arguments, daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _copy(source: socket.socket, destination: socket.socket, line: _Line | None) -> None:
    buffer = memoryview(bytearray(_CHUNK))
    with contextlib.suppress(OSError):  # either side went away
        while count := source.recv_into(buffer):
            if line is not None:
                line.pass_through(count)
            destination.sendall(buffer[:count])
    for end in (source, destination):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
