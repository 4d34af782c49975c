"""What root filesystems can be made with in some directory, found out by a child of its own.

Nothing that is tried there, mounts and namespaces among it, can reach or outlive this process. An ordinary user's child
is root of a user namespace, as their commands are.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import run
from micropod_img.cancellation import Cancellation
from micropod_img.errors import MicropodError, UnsupportedError
from micropod_img.rootfs import syscalls
from micropod_img.rootfs.drivers.choice import drivers, refusal
from micropod_img.rootfs.private_mounts import in_private_mounts
from micropod_img.rootfs.programs import PROGRAM_PATH, find_program
from micropod_img.store.layout import StoreLayout
from micropod_img.store.trees import remove_tree_if_possible

if TYPE_CHECKING:
    from collections.abc import Mapping

OVERLAY_OPTIONS: Final = ("index=off", "metacopy=off", "redirect_dir=nofollow", "userxattr")
LOWERDIR_PLUS: Final = "lowerdir+"
"""Layers one by one through fsconfig(2), and with it chains that are longer than a page of options."""

_FICLONE: Final = 0x40049409
_RESULT: Final = "result.json"
_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What works in a directory.

    Attributes:
        refusals: Each driver, the best first, and why it does not work; None for one that does.
        overlay_options: Options of the kernel's overlay, and whether a mount with each works.
        reflinks: Whether copies share their blocks until they are written to.
        hard_links: Whether a file can have several names.
        attributes: Whether files have extended attributes (``user.…``).
    """

    refusals: Mapping[str, str | None]
    overlay_options: Mapping[str, bool]
    reflinks: bool
    hard_links: bool
    attributes: bool

    @property
    def best(self) -> str | None:
        """The driver that would be chosen; None if none works."""
        return next((name for name, refused in self.refusals.items() if refused is None), None)


def try_out(directory: Path) -> Trial:
    """Find out, in a child, what works in a directory.

    Args:
        directory: An empty directory, which the caller removes.

    Raises:
        UnsupportedError: The child failed; an ordinary user's child cannot have a user namespace.
        ToolError: util-linux is missing.
    """
    argv = [sys.executable, "-P", "-m", __name__, str(directory)]  # -P: nothing is imported from where the user is
    if os.geteuid() != 0:
        unshare = find_program("unshare", package="util-linux")
        argv = [unshare, "--user", "--map-root-user", "--mount", "--propagation", "private", "--", *argv]
    environment = {"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path)), "PATH": PROGRAM_PATH}
    completed = run.run(argv, env=environment, timeout=_SECONDS)
    if completed.status != 0:
        raise UnsupportedError("the drivers could not be tried out", code="trial", detail=completed.stderr)
    return Trial(**json.loads((directory / _RESULT).read_bytes()))


def _try_here(directory: Path) -> Trial:
    layout = StoreLayout(directory)
    refusals: dict[str, str | None] = {}
    for driver in drivers(layout):
        scratch = directory / driver.name
        scratch.mkdir()
        refusals[driver.name] = refusal(driver, scratch)
    options = directory / "options"
    options.mkdir()
    files = directory / "files"
    files.mkdir()
    return Trial(
        refusals,
        {option: _mounts_with(option, options) for option in (*OVERLAY_OPTIONS, LOWERDIR_PLUS)},
        reflinks=_has_reflinks(files),
        hard_links=_has_hard_links(files),
        attributes=_has_attributes(files),
    )


def _mounts_with(option: str, scratch: Path) -> bool:
    place = scratch / option.partition("=")[0]
    for name in ("one", "two", "upper", "work", "target"):
        (place / name).mkdir(parents=True)

    def mount() -> None:
        # Relative to the directory, so that no sign in its path can be taken for another.
        os.chdir(place)
        if option == LOWERDIR_PLUS:
            with syscalls.FilesystemContext("overlay") as context:
                context.set_string(LOWERDIR_PLUS, "one")
                context.set_string(LOWERDIR_PLUS, "two")
                context.attach("target", 0)
        else:
            directories = "lowerdir=one,upperdir=upper,workdir=work"
            syscalls.mount("overlay", "target", "overlay", 0, f"{directories},{option}")

    try:
        in_private_mounts(mount, Cancellation())
    except (OSError, MicropodError):
        return False
    return True


def _has_reflinks(directory: Path) -> bool:
    source = directory / "source"
    source.write_bytes(bytes(1 << 16))
    with source.open("rb") as reading, (directory / "clone").open("wb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
        except OSError:
            return False
    return True


def _has_hard_links(directory: Path) -> bool:
    (directory / "file").touch()
    try:
        os.link(directory / "file", directory / "link")
    except OSError:
        return False
    return True


def _has_attributes(directory: Path) -> bool:
    (directory / "attributes").touch()
    try:
        os.setxattr(directory / "attributes", "user.micropod", b"1")
    except OSError:
        return False
    return True


def _main(directory: Path) -> None:
    trial = _try_here(directory)
    for scratch in directory.iterdir():
        remove_tree_if_possible(scratch)  # here, as overlays leave directories that only root enters
    (directory / _RESULT).write_text(json.dumps(asdict(trial)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
