"""The limits of what an image may take, as options of the commands that unpack, and in the configuration file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.rootfs.unpacking import as_root

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command_line import CommandLine

pytestmark = as_root

# The image of the fixture `ref`: etc/os-release of 8 bytes, and bin/app of 720.
ROUTES: dict[str, tuple[str, ...]] = {
    "unpack": ("unpack", "REF", "DEST/new"),
    "mount": ("mount", "REF", "DEST"),
    "pod": ("pod", "create", "REF"),
}


@pytest.fixture(params=list(ROUTES))
def command(request: pytest.FixtureRequest, ref: str, tmp_path: Path) -> tuple[str, ...]:
    """A command that unpacks."""
    words = ROUTES[request.param]
    return tuple(word.replace("REF", ref).replace("DEST", str(tmp_path)) for word in words)


@pytest.mark.parametrize(
    ("option", "limit"),
    [
        ("--max-size=0.5k", "beyond the 512 bytes"),
        ("--max-entries=1", "beyond the 1 entries"),
        ("--max-file-size=719B", "larger than 719 bytes"),
    ],
)
def test_what_is_over_a_limit_is_refused_with_entry_limit_and_option(
    option: str, limit: str, command: tuple[str, ...], micropod: CommandLine
) -> None:
    said = micropod(*command, option, "--progress=none")
    assert said.status == 12
    # Two layers are looked at side by side: which entry is the one too many is not always the same.
    assert re.search(rf"entry '(bin/app|etc/os-release)' is {limit}", said.err)
    assert f"hint: raise {option.partition('=')[0]} if you trust this image" in said.err
    assert list((micropod.root / "tmp").iterdir()) == []
    assert not (micropod.root / "pods").exists() or list((micropod.root / "pods").iterdir()) == []


def test_a_depth_and_a_ratio_can_be_given(command: tuple[str, ...], micropod: CommandLine) -> None:
    said = micropod(*command, "--max-ratio=1", "--max-depth", "1", "--max-entries=0")
    assert said.status == 2
    assert said.err.splitlines() == [
        "micropod-img: --max-entries: '0' is not a whole number above 0",
        "hint: write 100000",
    ]


def test_a_limit_of_the_configuration_holds_until_an_option_says_otherwise(
    micropod: CommandLine, ref: str, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text('max-size = "100B"\n')
    config = f"--config={tmp_path / 'config.toml'}"
    assert micropod("unpack", ref, str(tmp_path / "new"), config).status == 12
    assert micropod("unpack", ref, str(tmp_path / "new"), config, "--max-size=1K").status == 0
