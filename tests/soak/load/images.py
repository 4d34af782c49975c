"""The images of the load: each shares layers with others, and says in one of its files which of them it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tests.support.images import image, index
from tests.support.layers import layer, random_layer
from tests.support.push import push

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.images import Manifest
    from tests.support.layers import Layer
    from tests.support.registries import Registry

NAME_FILE = "etc/image"

_KIB = 1 << 10
_SHARED = tuple(random_layer(40 * _KIB, seed=seed) for seed in range(3))
_ORDINARY = 5


@dataclass(frozen=True, slots=True)
class Images:
    """What a registry serves.

    Attributes:
        ordinary: References of images that everyone pulls and removes.
        moving: A tag that is now one image and now another.
        whole: An index of two platforms, pulled with both.
        kept: In the store from the beginning; nobody removes it.
        names: What `NAME_FILE` says in each image, by digest of its manifest.
    """

    ordinary: tuple[str, ...]
    moving: str
    whole: str
    kept: str
    names: dict[str, str]

    @property
    def removable(self) -> tuple[str, ...]:
        return (*self.ordinary, self.moving, self.whole)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Images:
        content = json.loads(path.read_text())
        return cls(**{**content, "ordinary": tuple(content["ordinary"])})


class Catalogue:
    """Puts the images into a registry.

    Args:
        registry: A real one.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._names: dict[str, str] = {}
        self._turns = [self._image(f"moving {turn}", _SHARED[:2]) for turn in range(2)]
        self._moved = 0

    def fill(self) -> Images:
        """Push everything."""
        ordinary = [self._image(f"ordinary {number}", _SHARED[number % 3 :]) for number in range(_ORDINARY)]
        both = index(
            [self._image("whole", _SHARED[1:]), self._image("foreign", _SHARED[:1], platform="linux/arm64")],
        )
        return Images(
            ordinary=tuple(self._push(f"ordinary-{number}", one) for number, one in enumerate(ordinary)),
            moving=self._push("moving", self._turns[0]),
            whole=self._push("whole", both),
            kept=self._push("kept", self._image("kept", _SHARED)),
            names=self._names,
        )

    def move(self) -> None:
        """Let the tag that moves name the other image."""
        self._moved += 1
        self._push("moving", self._turns[self._moved % len(self._turns)])

    def _image(self, name: str, shared: Sequence[Layer], *, platform: str = "linux/amd64") -> Manifest:
        made = image([*shared, layer({NAME_FILE: name.encode()})], platform=platform)
        self._names[made.digest] = name
        return made

    def _push(self, tag: str, document: Manifest) -> str:
        return push(self._registry, "load", tag, document)
