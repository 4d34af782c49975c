"""The commands that are killed, the store that each of them finds, and what must be true once it was repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from tests.support.images import image, index
from tests.support.layers import directory, hardlink, layer, random_layer, symlink, whiteout

if TYPE_CHECKING:
    from tests.support.images import Manifest

Words: TypeAlias = "tuple[str, ...]"

_BASE = layer({"etc/motd": b"welcome\n", "bin/sh": b"#!", "usr/lib/large": bytes(200_000)})
_CHANGE = layer(
    [whiteout("usr/lib/large"), directory("srv"), symlink("srv/motd", "/etc/motd"), hardlink("sh", "bin/sh")]
)
_OTHER = layer({"etc/other": b"other\n"})
_DONE: Final = 0
_UNKNOWN: Final = 3
_CONFLICT: Final = 9

IMAGES: Final[dict[str, Manifest]] = {
    "small": image([_BASE, _CHANGE]),
    "other": image([_BASE, _OTHER]),
    # Its first layers are unpacked while they arrive, and beside one another.
    "large": image([random_layer(4_300_000, seed=2), random_layer(4_300_000, seed=3), layer([whiteout("random-2")])]),
    "index": index([image([_BASE]), image([random_layer(50_000)], platform="linux/arm64")]),
}
"""What the registry has, by repository."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One command, and when it may be killed.

    Words in braces stand for what `tests.soak.workplace.Workplace` knows: references, directories.

    Attributes:
        command: What stands behind the program's name.
        store: The commands that make the store it finds; without any there is none.
        mounted: Commands that follow once the store is in place: mounts cannot be copied.
        stdin: What it is told.
        litter: Whether there is a blob that no image needs, and what a pull that was killed leaves.
        damaged: Whether a layer of the small image has other bytes than its name says.
        repeated: The exit statuses that the same command may end with afterwards; 9 where it had been done already.
        listed: The references that must be here in the end, by image.
        keeps: Those that must be here at any time.
        pod: The id of the pod that must be there, and whole, in the end.
        bundle: Whether a runtime can start that pod.
        filled: The directory that must hold the files of the small image in the end.
    """

    command: Words
    store: tuple[Words, ...] = ()
    mounted: tuple[Words, ...] = ()
    stdin: str = ""
    litter: bool = False
    damaged: bool = False
    repeated: frozenset[int] = frozenset({_DONE})
    listed: Words = ()
    keeps: Words = ()
    pod: str | None = None
    bundle: bool = False
    filled: str | None = None


_PULLED: Final = (("pull", "{small}", "{other}"),)
_UNPACKED: Final = (*_PULLED, ("pod", "create", "{small}", "--id", "warm"), ("pod", "rm", "warm"))
_POD: Final = (*_UNPACKED, ("pod", "create", "{small}", "--id", "one"), ("pod", "umount", "one"))
_MOUNTED: Final = (("pod", "mount", "one"),)
_BOTH: Final = ("small", "other")
_OR_DONE: Final = frozenset({_DONE, _CONFLICT})
_OR_GONE: Final = frozenset({_DONE, _UNKNOWN})

OF_USERS: Final = (
    "unpack",
    "pod create, cold",
    "pod create --bundle",
    "pod rm",
    "pod mount",
    "pod umount",
    "mount",
    "umount",
    "gc",
)
"""Those that are something else for an ordinary user."""

SCENARIOS: Final[dict[str, Scenario]] = {
    "pull": Scenario(("pull", "{small}"), listed=("small",)),
    "pull, after a killed one": Scenario(
        ("pull", "{small}"), store=(("pull", "{other}"),), litter=True, listed=_BOTH, keeps=("other",)
    ),
    "pull an index": Scenario(("pull", "{index}", "--all-platforms"), listed=("index",)),
    "pull two": Scenario(("pull", "{small}", "{other}"), listed=_BOTH),
    "pull again": Scenario(("pull", "{small}", "--policy", "always"), store=_PULLED, listed=_BOTH, keeps=_BOTH),
    "tag": Scenario(("tag", "{small}", "{name}"), store=_PULLED, listed=(*_BOTH, "name"), keeps=_BOTH),
    "rmi": Scenario(("rmi", "{small}"), store=_UNPACKED, repeated=_OR_GONE, listed=("other",), keeps=("other",)),
    "rmi --force": Scenario(
        ("rmi", "--force", "{small}", "{name}", "{index}"),
        store=(*_UNPACKED, ("tag", "{small}", "{name}")),
        listed=("other",),
        keeps=("other",),
    ),
    "gc": Scenario(("gc",), store=(*_UNPACKED, ("rmi", "{small}")), litter=True, listed=("other",), keeps=("other",)),
    "verify --repair": Scenario(("verify", "--repair"), store=_UNPACKED, damaged=True, listed=_BOTH, keeps=_BOTH),
    "push": Scenario(("push", "{small}", "{destination}"), store=_PULLED, listed=_BOTH, keeps=_BOTH),
    "login": Scenario(("login", "{host}", "--insecure", "--username", "somebody", "--password-stdin"), stdin="secret"),
    "logout": Scenario(
        ("logout", "{host}"),
        store=(("login", "{host}", "--insecure", "--username", "somebody", "--password-stdin"),),
        repeated=_OR_GONE,
    ),
    "unpack": Scenario(
        ("unpack", "{small}", "{dest}"), store=_PULLED, repeated=_OR_DONE, listed=_BOTH, keeps=_BOTH, filled="dest"
    ),
    "pod create, nothing is here": Scenario(
        ("pod", "create", "{small}", "--id", "one"), repeated=_OR_DONE, listed=("small",), pod="one"
    ),
    "pod create, cold": Scenario(
        ("pod", "create", "{small}", "--id", "one"),
        store=_PULLED,
        repeated=_OR_DONE,
        listed=_BOTH,
        keeps=_BOTH,
        pod="one",
    ),
    "pod create, of large layers": Scenario(
        ("pod", "create", "{large}", "--id", "large"), repeated=_OR_DONE, listed=("large",)
    ),
    "pod create, warm": Scenario(
        ("pod", "create", "{small}", "--id", "one"), store=_UNPACKED, repeated=_OR_DONE, listed=_BOTH, pod="one"
    ),
    "pod create --bundle": Scenario(
        ("pod", "create", "{small}", "--id", "one", "--bundle", "--read-only"),
        store=_UNPACKED,
        repeated=_OR_DONE,
        listed=_BOTH,
        pod="one",
        bundle=True,
    ),
    "pod rm": Scenario(
        ("pod", "rm", "one"), store=_POD, mounted=_MOUNTED, repeated=_OR_GONE, listed=_BOTH, keeps=_BOTH
    ),
    "pod rm, unmounted": Scenario(("pod", "rm", "one"), store=_POD, repeated=_OR_GONE, listed=_BOTH, keeps=_BOTH),
    "pod mount": Scenario(("pod", "mount", "one"), store=_POD, listed=_BOTH, pod="one"),
    "pod umount": Scenario(("pod", "umount", "one"), store=_POD, mounted=_MOUNTED, listed=_BOTH),
    "mount": Scenario(
        ("mount", "{small}", "{place}"), store=_UNPACKED, repeated=_OR_DONE, listed=_BOTH, keeps=_BOTH, filled="place"
    ),
    "umount": Scenario(
        ("umount", "{place}"),
        store=_UNPACKED,
        mounted=(("mount", "{small}", "{place}"),),
        repeated=_OR_GONE,
        listed=_BOTH,
        keeps=_BOTH,
    ),
}
