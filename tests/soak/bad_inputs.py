"""Bad inputs for everything that reads what somebody else wrote: each is taken for what it is, or refused in time."""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from tests.rootfs.tar_layers import BLOCK
from tests.soak.outcome import Outcome
from tests.soak.seeds import SEEDS
from tests.support.readers import READERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.soak.outcome import Plan

_SHORT = 4000
_LONGEST = 1 << 14
_SLOWEST = 5.0  # seconds of the processor; all of these inputs are small
_MOST_TOLD = 20


def run(plan: Plan) -> Outcome:
    """Make bad inputs of good ones until the time is over, or a few thousand of them."""
    # Each run of the long form tries others; the seed is told, so that a find can be made again.
    seed = 0 if plan.short else random.SystemRandom().randrange(1 << 32)
    verdicts: Counter[str] = Counter()
    lost: list[str] = []
    until = time.monotonic() + plan.seconds
    for number, (name, content) in enumerate(_inputs(random.Random(seed))):  # noqa: S311 - repeatable, not secret
        if (number >= _SHORT) if plan.short else (time.monotonic() >= until):
            break
        began = time.process_time()
        try:
            verdicts["taken" if READERS[name].verdict(content) == "taken" else "refused"] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            lost.append(f"{name}: {error!r} at {where.filename}:{where.lineno} of {content[:2000]!r}")
        if (took := time.process_time() - began) > _SLOWEST:
            lost.append(f"{name}: took {took:.1f} s for {content[:2000]!r}")
    told = {**{kind: str(count) for kind, count in sorted(verdicts.items())}, "seed": str(seed)}
    return Outcome("bad inputs", sum(verdicts.values()) + len(lost), tuple(lost[:_MOST_TOLD]), told)


def _inputs(chance: random.Random) -> Iterator[tuple[str, bytes]]:
    names = sorted(READERS)
    while True:
        for name in names:
            content = changed(chance, name, chance.choice(SEEDS[name]))
            if name == "layer" and chance.random() < 0.8:
                content = with_checksums(content)
            yield name, content


def changed(chance: random.Random, name: str, content: bytes) -> bytes:
    """Change an input of a reader in none to some places, with other good inputs of that reader at hand."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        content = chance.choice(_CHANGES)(chance, content, chance.choice(SEEDS[name]))[:_LONGEST]
    return content


def with_checksums(archive: bytes) -> bytes:
    """Put the checksum of each block right, as if it were a header; what is content changes where nobody looks."""
    summed = bytearray(archive)
    for start in range(0, len(archive) - BLOCK + 1, BLOCK):
        block = summed[start : start + BLOCK]
        if any(block):
            total = sum(block) - sum(block[148:156]) + 256
            summed[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(summed)


def _byte(chance: random.Random, content: bytes, _: bytes) -> bytes:
    other = bytearray(content or b"\0")
    other[chance.randrange(len(other))] = chance.choice((0, 0xFF, 0x80, 0x20, 0x7F, chance.randrange(256)))
    return bytes(other)


def _cut(chance: random.Random, content: bytes, _: bytes) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _spliced(chance: random.Random, content: bytes, other: bytes) -> bytes:
    step = BLOCK if chance.random() < 0.5 else 1
    start, end = sorted(chance.randrange(len(other) // step + 1) * step for _ in range(2))
    place = chance.randrange(len(content) // step + 1) * step
    return content[:place] + other[start:end] + content[place + chance.choice((0, end - start)) :]


def _word(chance: random.Random, content: bytes, _: bytes) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + chance.choice(_WORDS) + content[place + chance.choice((0, 0, 1, 8)) :]


def _repeated(chance: random.Random, content: bytes, _: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] * chance.choice((1, 2, 50, 3000)) + content[end:]


_CHANGES: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (_byte, _byte, _cut, _spliced, _word, _repeated)
_WORDS = (
    *(b"..", b"/", b"../", b"/../", b".wh.", b".wh..wh..opq", b"\0", b"\n", b"\r", b"\x1b[31m", b"\xe2\x80\xae"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x9b", b"\\ud800", b"\\u0000", b"\\u001b[31m"),
    *(b"[" * 3000, b'{"":' * 3000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"Infinity", b"null", b"true", b"-0", b"1.5"),
    *(b"[]", b"{}", b'"', b'""', b",", b":", b"=", b"@", b"%", b"  ", b"18446744073709551616", b"9223372036854775807"),
    *(b"sha256:", b"sha512:../../x", b'"layers":', b'"manifests":', b'"Layers":', b'"mediaType":', b'"size":'),
    *(b"\x80" + b"\xff" * 11, b"\xff" * 12, b"7777777777\0", b"ustar\x0000", b"path=", b"12 path=a/b\n"),
    *(b"22 GNU.sparse.major=1\n", b"25 GNU.sparse.realsize=9\n", b"SCHILY.xattr.trusted.overlay.opaque=y"),
)
