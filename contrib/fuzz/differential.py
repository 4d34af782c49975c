"""Compare the gate with other readers of tar archives on changed and mixed ones; see README.md beside this."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from contrib.fuzz.other_readers import same_as_others
from tests.rootfs.tar_layers import END
from tests.soak.bad_inputs import changed, with_checksums
from tests.soak.seeds import SEEDS
from tests.support.readers import READERS


def main() -> int:
    """Compare until the time is over; return 1 if two readers saw different things."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = options.parse_args()
    chance = random.Random(given.seed)  # noqa: S311 - repeatable, not secret
    tried = passed = different = 0
    until = time.monotonic() + given.seconds
    while time.monotonic() < until:
        parts = [chance.choice(SEEDS["layer"]).removesuffix(END) for _ in range(chance.randrange(1, 4))]
        archive = changed(chance, "layer", b"".join(parts))
        if chance.random() < 0.9:  # noqa: PLR2004 - most
            archive = with_checksums(archive)
        tried += 1
        if READERS["layer"].verdict(archive) != "taken":
            continue
        passed += 1
        try:
            same_as_others(archive)
        except AssertionError as error:
            different += 1
            print(f"{archive!r}\n  {error}")
    print(f"{tried} tried, {passed} passed the gate, {different} were read differently (seed {given.seed})")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
