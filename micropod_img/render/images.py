"""Images for people: a table of many, all about one, and the filters of the table."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from micropod_img.errors import InvalidReference
from micropod_img.reference import Reference
from micropod_img.render.table import pairs, table
from micropod_img.render.text import age, short_digest, size, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from micropod_img.models import Image
    from micropod_img.render.style import Style

UNNAMED = "<none>"


def familiar(ref: str) -> str:
    """Return a canonical reference in the form that users know; ``<none>`` for none."""
    return Reference.parse(ref).familiar if ref else UNNAMED


def matching(images: Iterable[Image], filters: Sequence[str]) -> list[Image]:
    """Return the images that one of several filters fits, or all if there are none, ordered by reference.

    A filter is a name (of a registry, a namespace, a repository, with its tag or without), a pattern with ``*``, ``?``
    or ``[…]``, or the beginning of a digest with its ``sha256:``.
    """
    chosen = [image for image in images if not filters or any(_fits(image, one) for one in filters)]
    return sorted(chosen, key=lambda image: (not image.ref, image.ref, str(image.platform), image.digest))


def _fits(image: Image, text: str) -> bool:
    if text.startswith("sha256:"):
        return image.digest.startswith(text) or (image.index_digest or "").startswith(text)
    if not image.ref:
        return text == UNNAMED
    reference = Reference.parse(image.ref)
    plain = reference.without_digest() if reference.tag else reference
    known = {str(reference), reference.familiar, str(plain), plain.familiar, reference.name}
    known.add(reference.familiar.partition("@")[0].removesuffix(f":{reference.tag}"))
    if re.search(r"[*?\[]", text):
        return any(fnmatch.fnmatchcase(name, text) for name in known)
    wanted = {text.rstrip("/")}
    try:
        parsed = Reference.parse(text)
    except InvalidReference:
        pass  # such as a registry alone
    else:
        has_tag = ":" in text.rpartition("/")[2]
        wanted.add(str(parsed) if has_tag else parsed.name)
    return any(name == one or name.startswith((f"{one}/", f"{one}:", f"{one}@")) for name in known for one in wanted)


def image_table(
    images: Sequence[Image], now: datetime, style: Style, *, digests: bool = False, no_trunc: bool = False
) -> str:
    """Return the table of ``images``.

    Args:
        images: In this order.
        now: The time now.
        style: How the header stands out.
        digests: Whether digests are shown in full.
        no_trunc: Whether everything is: canonical references, digests, times.
    """
    rows = [
        (
            (image.ref or UNNAMED) if no_trunc else familiar(image.ref),
            str(image.platform),
            size(image.size),
            (timestamp(image.created) or "-") if no_trunc else age(image.created, now),
            image.digest if digests or no_trunc else short_digest(image.digest),
        )
        for image in images
    ]
    header = ("REFERENCE", "PLATFORM", "SIZE", "CREATED" if no_trunc else "AGE", "DIGEST")
    return table(header, rows, style=style, right={"SIZE"})


def image_details(image: Image, now: datetime, style: Style) -> str:
    """Return all about one image."""

    def moment(when: datetime | None) -> str:
        passed = age(when, now)
        return "-" if passed == "-" else f"{timestamp(when)} ({passed} ago)"

    rows = [
        ("Reference", image.ref or UNNAMED),
        ("Digest", image.digest),
        ("Index", image.index_digest or "-"),
        ("Config", image.config_digest),
        ("Media type", image.media_type),
        ("Platform", str(image.platform)),
        ("Size", f"{size(image.size)} ({image.size} bytes)"),
        ("Created", moment(image.created)),
        ("Pulled", moment(image.pulled_at)),
        ("Last used", moment(image.last_used_at)),
        ("Layers", f"{len(image.layer_details)}, the lowest first" if image.layer_details else "none"),
    ]
    text = pairs(rows, style=style)
    if not image.layer_details:
        return text
    layers = table(
        ("SIZE", "DIGEST", "MEDIA TYPE"),
        [(size(layer.size), layer.digest, layer.media_type) for layer in image.layer_details],
        style=style,
        right={"SIZE"},
    )
    return "\n".join([text, *(f"  {line}" for line in layers.splitlines())])
