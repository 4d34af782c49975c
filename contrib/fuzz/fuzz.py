"""Feed the readers of ``tests/support/readers.py`` with atheris; see README.md beside this."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # installed for fuzzing only

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

with atheris.instrument_imports(include=["micropod_img"]):
    from tests.support.readers import READERS

from contrib.fuzz.other_readers import same_as_others
from tests.soak.bad_inputs import with_checksums
from tests.soak.seeds import SEEDS


def main() -> None:
    """Fuzz the readers that the first argument names; the others are libFuzzer's, of which the first is the corpus."""
    names = sys.argv[1].split(",")
    corpus = Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        for position, seed in enumerate(SEEDS[name]):
            (corpus / f"seed-{number}-{position}").write_bytes(bytes([number, 1]) + seed)

    def one_input(data: bytes) -> None:
        if len(data) < 2:  # noqa: PLR2004 - which reader, and whether checksums are put right
            return
        name, content = names[data[0] % len(names)], data[2:]
        if name == "layer":
            content = with_checksums(content) if data[1] % 2 else content
            if READERS[name].verdict(content) == "taken":
                same_as_others(content)
        else:
            READERS[name].verdict(content)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
