"""Put the entries of an index right: pure values in and out, and a sentence for each thing that was done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from micropod_img.digest import parse_digest
from micropod_img.errors import InvalidReference, UsageError
from micropod_img.problems import Repair
from micropod_img.reference import Reference
from micropod_img.store.index import INDEX_DIGEST, PULLED_AT, REF_NAME, REFERENCE, Entry, described
from micropod_img.store.verification.index import duplicate_keys, is_time, label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from micropod_img.digest import Digest
    from micropod_img.platforms import Platform
    from micropod_img.store.verification.blobs import BlobVerification
    from micropod_img.store.verification.images import ImageVerification


class Mending:
    """Entries on their way to being right.

    Args:
        entries: Those that can be read.
        images: What is known of their images.
        blobs: The blobs, listed and read.
        path: The index.
    """

    def __init__(
        self, entries: Sequence[Entry], images: ImageVerification, blobs: BlobVerification, path: Path
    ) -> None:
        self.entries = list(entries)
        self.repaired: list[Repair] = []
        self._images = images
        self._blobs = blobs
        self._path = path

    def run(self) -> None:
        """Put descriptors, annotations and names right, and let no entry stand in for another."""
        self.entries = [self._with_right_names(self._with_right_descriptor(entry)) for entry in self.entries]
        self._own_shared_names()
        self._merge()
        self._merge()  # those that lost their name may be the same image
        for name in {entry.annotations.get(REFERENCE, "") for entry in self.entries} - {""}:
            # Writing the index gives each reference of this program's to one entry.
            if [entry.annotations.get(REF_NAME) for entry in self.entries].count(name) != 1:
                self._note("mended-names", f"{name} is the name of one entry to other tools", name)

    def adopt(self, digest: Digest, names: Mapping[Digest, str]) -> None:
        """List an image, or a whole index, that is here and that nothing lists.

        Args:
            digest: Its digest.
            names: References that are known from elsewhere, by the digest of the image.
        """
        indexes = self._images.indexes_of(digest)
        annotations: dict[str, str] = {INDEX_DIGEST: indexes[0]} if len(indexes) == 1 else {}
        reference = names.get(digest, "")
        if reference and reference not in map(label, self.entries):
            annotations[REFERENCE] = reference
        bare = Entry(digest, "", self._blobs.files[digest].size, None, annotations, {"digest": digest})
        media_type = self._images.type_of(bare)
        platform = self._images.right_platform(bare)
        entry = described(bare, media_type=media_type, size=bare.size, platform=platform)
        self.entries.append(entry)
        what = "an index" if entry.is_index else f"an image for {platform}" if platform else "an image"
        named = f"as {reference}" if REFERENCE in annotations else "without a reference: micropod-img tag gives it one"
        self._note("adopted-image", f"listed {digest}, {what} that is here, {named}", label(entry))

    def drop(self, entry: Entry, why: str) -> None:
        """Take an entry away that cannot be saved; images of a whole index that are whole stay, one by one."""
        kept = self._images.images_of(entry.digest) if entry.is_index else ()
        self.entries = [one for one in self.entries if one is not entry]
        for digest in kept:
            annotations = {key: value for key, value in entry.annotations.items() if key != REF_NAME}
            bare = replace(entry, digest=digest, platform=None, annotations={**annotations, INDEX_DIGEST: entry.digest})
            bare = described(bare, media_type="", size=self._blobs.files[digest].size, platform=None)
            self.entries.append(
                described(
                    bare,
                    media_type=self._images.type_of(bare),
                    size=bare.size,
                    platform=self._images.right_platform(bare),
                )
            )
        rest = f"; {len(kept)} of its images are whole and stay" if kept else ""
        self._note("dropped-entry", f"{label(entry)} is lost and listed no more: {why}{rest}", label(entry))

    def _note(self, code: str, message: str, *images: str) -> None:
        self.repaired.append(Repair(code, message, str(self._path), images))

    def _with_right_descriptor(self, entry: Entry) -> Entry:
        media_type, platform = self._images.type_of(entry), self._images.right_platform(entry)
        if not media_type:
            return entry
        file = self._blobs.files[entry.digest]
        right = described(
            entry, media_type=media_type, size=file.size, platform=platform if entry.platform is not None else None
        )
        if right != entry:
            self._note("mended-entry", f"{label(entry)}: its entry says again what it is", label(entry))
        return right

    def _with_right_names(self, entry: Entry) -> Entry:
        annotations = dict(entry.annotations)
        reference = annotations.get(REFERENCE)
        if reference is not None:
            try:
                annotations[REFERENCE] = str(Reference.parse(reference))
            except InvalidReference:
                del annotations[REFERENCE]
        if REFERENCE in annotations and annotations.get(REF_NAME, "") != annotations[REFERENCE]:
            annotations.pop(REF_NAME, None)  # it gets the right one when it is written
        if not _is_digest(annotations.get(INDEX_DIGEST, entry.digest)):
            del annotations[INDEX_DIGEST]
        if not is_time(annotations.get(PULLED_AT, "")):
            del annotations[PULLED_AT]
        if annotations == entry.annotations:
            return entry
        right = replace(entry, annotations=annotations)
        was = f" (it was called {entry.reference or reference!r:.80})" if entry.reference != right.reference else ""
        self._note("mended-entry", f"{label(right)}: its annotations are right again{was}", label(right))
        return right

    def _own_shared_names(self) -> None:
        """Let each name that several of another tool's entries have be the name of one of them."""
        for name in {entry.annotations.get(REF_NAME, "") for entry in self.entries} - {""}:
            bearers = [entry for entry in self.entries if entry.annotations.get(REF_NAME) == name]
            if len(bearers) < 2 or len({entry.digest for entry in bearers}) < 2:  # noqa: PLR2004 - one has its own name
                continue
            for entry in bearers[:-1]:
                self._replace(entry, self._as_ours(entry) if entry.reference else _nameless(entry))
            if bearers[-1].reference:
                self._replace(bearers[-1], self._as_ours(bearers[-1]))
            if not bearers[-1].reference:
                self._note("mended-names", f"{name} is the name of one entry to other tools", name)

    def _as_ours(self, entry: Entry) -> Entry:
        """Return another tool's entry as one of this program's, which may share its name with other platforms."""
        annotations = {key: value for key, value in entry.annotations.items() if key != REF_NAME}
        own = replace(entry, annotations={**annotations, REFERENCE: entry.reference})
        platform = self._images.platform_of(entry)
        return described(own, media_type=own.media_type, size=own.size, platform=platform)

    def _merge(self) -> None:
        def platform_of(entry: Entry) -> Platform | None:
            return self._images.platform_of(entry)

        for (name, platform), group in duplicate_keys(self.entries, platform_of).items():
            best = max(group, key=_worth(self._images, self.entries))
            for entry in group:
                if entry is best:
                    continue
                if entry.digest == best.digest or not self._images.is_whole(entry):
                    self.entries = [one for one in self.entries if one is not entry]
                else:
                    self._replace(entry, _nameless(entry))
            where = f" for {platform}" if name else ""
            self._note("merged-entries", f"{name or best.digest} is listed once{where}, as {best.digest}", label(best))

    def _replace(self, old: Entry, new: Entry) -> None:
        self.entries = [new if one is old else one for one in self.entries]


def _worth(images: ImageVerification, entries: Sequence[Entry]) -> Callable[[Entry], tuple[bool, bool, str, int]]:
    places = {id(entry): place for place, entry in enumerate(entries)}

    def worth(entry: Entry) -> tuple[bool, bool, str, int]:
        return images.is_whole(entry), entry.is_index, entry.pulled_at, places[id(entry)]

    return worth


def _nameless(entry: Entry) -> Entry:
    kept = {key: value for key, value in entry.annotations.items() if key not in (REFERENCE, REF_NAME)}
    return replace(entry, annotations=kept)


def _is_digest(text: str) -> bool:
    try:
        return bool(parse_digest(text))
    except UsageError:
        return False
