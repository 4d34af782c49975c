"""An image of many files with compressible content, the same bytes each time it is made."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from isal import igzip

from bench.paired import CRANE

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = 3
FILES = 66_000
# With these the layers have 335 MiB as they are stored, and some 900 MiB unpacked, as images of languages do.
_TYPICAL_SIZE = 4_500
_SPREAD = 1.5
_LARGEST = 4 << 20
_RANDOM_SHARE = 0.04
_POOL = 1 << 20


def files_image(directory: Path, host: str) -> str:
    """Push an image of three layers with 66,000 files; return its reference."""
    with ProcessPoolExecutor() as executor:
        layers = list(executor.map(_write_layer, [directory] * LAYERS, range(LAYERS)))
    ref = f"{host}/bench/files:latest"
    append = [str(CRANE), "append", "--oci-empty-base", "-f", ",".join(map(str, layers)), "-t", ref]
    subprocess.run(append, check=True, capture_output=True)
    return ref


def _write_layer(directory: Path, number: int) -> Path:
    path = directory / f"layer-{number}.tar.gz"
    chance = random.Random(number)  # noqa: S311 - the same each time is what is wanted
    words = [chance.randbytes(chance.randint(2, 9)).hex().encode() for _ in range(2000)]
    text = b" ".join(chance.choices(words, k=_POOL // 8))
    noise = chance.randbytes(_POOL)
    packed = igzip.IGzipFile(path, "wb", compresslevel=2, mtime=0)  # type: ignore[no-untyped-call]
    with packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for file in range(FILES // LAYERS):
            size = min(int(chance.lognormvariate(0, _SPREAD) * _TYPICAL_SIZE), _LARGEST)
            info = tarfile.TarInfo(f"usr/lib/part-{number}/{file % 300:03}/file-{file:05}")
            info.size, info.mode, info.mtime = size, 0o644, 1_700_000_000
            archive.addfile(info, io.BytesIO(_content(chance, size, text, noise)))
    return path


def _content(chance: random.Random, size: int, text: bytes, noise: bytes) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = min(size, 16 << 10)
        source = noise if chance.random() < _RANDOM_SHARE else text
        start = chance.randrange(len(source) - part)
        parts.append(source[start : start + part])
        size -= part
    return b"".join(parts)
