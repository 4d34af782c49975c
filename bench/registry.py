"""A real registry on loopback, and images of random bytes in it, for the benches."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

from bench.paired import CRANE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYERS = 3

_POLL_SECONDS = 0.02
_BLOCK = 1 << 14  # less than the window of gzip


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[str]:
    """Run crane's own registry, with its blobs on disk; yield its ``host:port``."""
    blobs = directory / "registry"
    blobs.mkdir()
    command = [str(CRANE), "registry", "serve", "--address", "127.0.0.1:0", "--disk", str(blobs)]
    log = directory / "registry.log"  # not a pipe: it writes a line for each request, for as many as there are
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            while (port := re.search(r"serving on port (\d+)", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                time.sleep(_POLL_SECONDS)
            yield f"127.0.0.1:{port[1]}"
        finally:
            process.kill()


def sample_image(directory: Path, host: str, *, mebibytes: int, compressible: bool = False) -> str:
    """Push an image of three layers; return its reference.

    Args:
        directory: A private place.
        host: A registry's ``host:port``.
        mebibytes: How large its files are together.
        compressible: Whether they are one random block over and over, where not the transfer is measured; else random
            bytes, which nothing compresses.
    """
    layers = []
    for number in range(LAYERS):
        content = directory / f"content-{number}"
        size = (mebibytes << 20) // LAYERS
        content.write_bytes(os.urandom(_BLOCK) * (size // _BLOCK) if compressible else os.urandom(size))
        layer = directory / f"layer-{number}.tar.gz"
        with gzip.open(layer, "wb", compresslevel=1) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(content, arcname=f"srv/content-{number}")
        content.unlink()
        layers.append(str(layer))
    ref = f"{host}/bench/image:{mebibytes}"
    append = [str(CRANE), "append", "--oci-empty-base", "-f", ",".join(layers), "-t", ref]
    subprocess.run(append, check=True, capture_output=True)
    return ref
