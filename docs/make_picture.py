"""Record docs/terminal.svg: the program on a real terminal, with a registry on loopback that takes its time.

.venv/bin/python -m docs.make_picture
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from micropod_img.platforms import host_platform
from tests.cli.terminal import on_terminal
from tests.support.faults import BLOBS, dripping, on
from tests.support.images import image
from tests.support.layers import random_layer
from tests.support.scripted import scripted_registry

if TYPE_CHECKING:
    from tests.support.images import Manifest

_PICTURE = Path(__file__).with_name("terminal.svg")
_WIDTH = 104
_MIB = 1 << 20
_NEW_FRAME = re.compile(r"(?:\r|\x1b\[1A|\x1b\[2K|\x1b\[\?25[lh])+")


def main() -> int:
    """Run the commands, and write the picture."""
    base = random_layer(6 * _MIB, seed=1)
    sizes = {"web": (9, 4), "db": (5, 3)}
    with scripted_registry() as registry, tempfile.TemporaryDirectory() as store:
        refs = []
        for number, (name, layers) in enumerate(sizes.items()):
            own = [random_layer(size * _MIB, seed=10 * number + size) for size in layers]
            built: Manifest = image([base, *own], platform=str(host_platform()))
            refs.append(registry.serve(f"shop/{name}", "2.1", built))
        registry.faults = (on(BLOBS, dripping(3 * _MIB)),)
        console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True)
        for arguments in (
            ["pull", *refs],
            ["images"],
            ["df"],
            ["pull", refs[0]],
            ["pull", refs[0].replace(":2.1", ":2.2")],
        ):
            console.print(Text.assemble(("$ ", "bold green"), ("micropod-img ", "bold"), " ".join(arguments)))
            for part in _recorded(["--root", store, *arguments]):
                console.print(Text.from_ansi(part.rstrip("\n")))
        svg = console.export_svg(title="micropod-img", unique_id="terminal")
    # The picture is to load nothing from elsewhere: without these, it has the viewer's own monospaced font.
    _PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
    return 0


def _recorded(arguments: list[str]) -> list[str]:
    """Return what a command shows: its bars half-way, if it draws any, and what is there at its end."""
    with on_terminal(*arguments, extra={"TERM": "xterm-256color"}, width=_WIDTH) as terminal:
        terminal.end()
    *frames, last = _NEW_FRAME.split(terminal.text)
    bars = max((frame.count("iB/s") for frame in frames), default=0)
    drawn = [frame for frame in frames if bars and frame.count("iB/s") == bars]
    return [drawn[len(drawn) // 2], last] if drawn else [last]


if __name__ == "__main__":
    sys.exit(main())
