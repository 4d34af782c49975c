"""What `verify` finds and what `verify --repair` does about it: frozen values with stable codes (docs/verify.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from micropod_img.digest import Digest

Severity: TypeAlias = Literal["critical", "serious", "minor"]
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "serious", "minor")
"""The worst first: nothing of the store can be used; an image or pod cannot be used as it is; nothing is lost."""

_SEVERITY_OF: Final[dict[str, Severity]] = {
    "corrupt-version": "critical",
    "missing-index": "critical",
    "corrupt-index": "critical",
    "corrupt-entry": "critical",  # no command reads an index with an entry that is no descriptor
    "missing-blob": "serious",
    "corrupt-blob": "serious",
    "not-a-file": "serious",
    "unreadable-blob": "serious",
    "wrong-size": "serious",
    "corrupt-document": "serious",
    "diff-id-count": "serious",
    "entry-size": "serious",
    "entry-media-type": "serious",
    "entry-platform": "serious",
    "entry-annotation": "serious",
    "corrupt-pod": "serious",
    "missing-snapshot": "serious",
    "incomplete-pod": "serious",
    "corrupt-bundle": "serious",
    "pod-driver": "serious",
    "corrupt-driver": "serious",
    "broken-chain": "serious",
    "incomplete-snapshot": "serious",
    "changed-snapshot": "serious",
    "corrupt-layout": "serious",  # other tools refuse the layout
    "duplicate-entry": "minor",
    "ref-name": "minor",
    "misnamed-blob": "minor",
    "foreign-file": "minor",
    "wrong-mode": "minor",
    "wrong-owner": "minor",
}
_OF_A_BLOB: Final = frozenset({"corrupt-blob", "not-a-file", "unreadable-blob"})
"""Codes that hurt nobody where nothing that is listed needs the blob."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a store.

    Attributes:
        code: Its kind, stable across releases.
        message: What is wrong, in a user's words.
        path: The file or directory that it is wrong with.
        digest: The blob, or the chain ID of the snapshot, if it is one.
        images: Whom it hurts: references, and digests of images without one.
        pods: Ids of the pods that it hurts.
    """

    code: str
    message: str
    path: str
    digest: Digest | None = None
    images: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        if self.code in _OF_A_BLOB and not (self.images or self.pods):
            return "minor"
        return _SEVERITY_OF[self.code]


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing that was done about a problem.

    Attributes:
        code: What was done, stable across releases.
        message: The same in a user's words, with what was lost.
        path: The file or directory that it was done to.
        images: The images that it was done for, or that are lost by it.
    """

    code: str
    message: str
    path: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """What a store was found to be.

    Attributes:
        problems: What is wrong, the worst first; after a repair, what still is.
        repaired: What was done, in that order.
        images: How many index entries were checked.
        blobs: How many blobs were read.
        blob_bytes: How many bytes these have.
        snapshots: How many snapshots were checked.
        pods: How many pods were checked.
        unlisted: Digests of images that are here whole and that nothing lists: what a pull leaves that was killed
            before it listed them. That is no problem; a repair lists them.
        leftovers: Staging places that killed processes left; the next command that writes sweeps them.
    """

    problems: tuple[Problem, ...]
    repaired: tuple[Repair, ...]
    images: int
    blobs: int
    blob_bytes: int
    snapshots: int
    pods: int
    unlisted: tuple[Digest, ...]
    leftovers: int


def in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    """Return problems, the worst first, and of equal ones those that hurt more."""
    return tuple(
        sorted(
            set(problems),
            key=lambda one: (
                SEVERITIES.index(one.severity),
                -len(one.images) - len(one.pods),
                list(_SEVERITY_OF).index(one.code),
                one.path,
                one.message,
            ),
        )
    )
