"""What the other commands did, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.reference import Reference
from micropod_img.render.text import counted, one_line, seconds, short_digest, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from micropod_img.models import DeleteResult, Image
    from micropod_img.progress import Finished
    from micropod_img.render.style import Style
    from micropod_img.reports import StoreUsage, ToolVersion


def pulled_text(image: Image, finished: Finished | None, style: Style) -> str:
    """Return what a pull did for one reference, in one line.

    Args:
        image: What it became.
        finished: What the pull told of its end.
        style: How the name stands out.
    """
    name = style.bold(f"{Reference.parse(image.ref).familiar}:")
    what = f"{image.platform}, {short_digest(image.digest)}"
    if finished is None or not finished.fetched:
        return f"{name} here already ({what})"
    if not finished.downloaded_bytes:
        return f"{name} pulled, all of it reused ({what})"
    reused = f", {size(finished.reused_bytes)} reused" if finished.reused_bytes else ""
    return f"{name} pulled, {size(finished.downloaded_bytes)} downloaded{reused} ({what})"


def removed_text(result: DeleteResult) -> str:
    """Return what ``rmi`` removed."""
    return "\n".join([*(f"removed {one_line(name)}" for name in result.removed), f"freed {size(result.freed_bytes)}"])


def collected_text(result: DeleteResult, *, verbose: bool = False) -> str:
    """Return what ``gc`` removed.

    Args:
        result: What it did.
        verbose: Whether to name each blob.
    """
    number = len(result.removed)
    lines = [f"removed {name}" for name in result.removed] if verbose else []
    if not number:
        return "nothing to remove: every blob belongs to an image"
    return "\n".join([*lines, f"removed {counted(number, 'blob')}, freed {size(result.freed_bytes)}"])


def usage_text(usage: StoreUsage, style: Style) -> str:
    """Return who uses the disk."""
    from micropod_img.render.images import familiar  # noqa: PLC0415 - only this and `images` show tables
    from micropod_img.render.table import pairs, table  # noqa: PLC0415 - the same

    rows = [
        (
            familiar(one.image.ref),
            str(one.image.platform),
            size(one.own_bytes),
            size(one.shared_bytes),
            short_digest(one.image.digest),
        )
        for one in sorted(usage.images, key=lambda one: one.own_bytes, reverse=True)
    ]
    header = ("REFERENCE", "PLATFORM", "OWN", "SHARED", "DIGEST")
    totals = [("Images", f"{size(usage.image_bytes)}, what they share counted once")]
    if usage.unreferenced_bytes:
        totals.append(("Unreferenced", f"{size(usage.unreferenced_bytes)}, which gc removes"))
    if usage.staging_bytes:
        totals.append(("In progress", size(usage.staging_bytes)))
    return f"{table(header, rows, style=style, right={'OWN', 'SHARED'})}\n\n{pairs(totals, style=style)}"


def version_text(version: str, tools: Sequence[ToolVersion], *, verbose: bool = False) -> str:
    """Return the versions of the program and its tools.

    Args:
        version: The program's own.
        tools: The pinned tools.
        verbose: Whether to say where they are.
    """
    lines = [f"micropod-img {version}"]
    lines += [f"{tool.name} {tool.version}" + (f" ({one_line(tool.path)})" if verbose else "") for tool in tools]
    return "\n".join(lines)


def steps_text(steps: Sequence[tuple[str, float, str | None]], failed: str | None, style: Style) -> str:
    """Return how a self-test went.

    Args:
        steps: What was done, the seconds that it took, and why it was passed over, if it was.
        failed: What was being done when it failed; None if all went well.
        style: How the outcome of each step stands out.
    """
    width = max([len(name) for name, _, _ in steps] + [len(failed or "")])
    lines = [
        f"{style.good('ok')}      {name.ljust(width)}  {style.dim(seconds(taken))}"
        if skipped is None
        else f"{style.dim('skipped')} {name.ljust(width)}  {one_line(skipped)}"
        for name, taken, skipped in steps
    ]
    if failed is not None:
        return "\n".join([*lines, f"{style.bad('failed')}  {failed}"])
    total = sum(taken for _, taken, _ in steps)
    done = sum(skipped is None for _, _, skipped in steps)
    return "\n".join([*lines, f"micropod-img works here: {done} steps in {seconds(total)}"])
