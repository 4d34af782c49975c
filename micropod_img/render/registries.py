"""What was done at registries besides pulling, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.reference import Reference
from micropod_img.render.table import pairs
from micropod_img.render.text import one_line, size

if TYPE_CHECKING:
    from micropod_img.render.style import Style
    from micropod_img.reports import PlannedEndpoint, PullPlan, PushReport


def plan_text(plan: PullPlan, style: Style) -> str:
    """Return what a pull would do."""
    rows = [("Image", Reference.parse(plan.ref).familiar), ("Digest", plan.digest)]
    rows.append(("Platform", str(plan.platform) if plan.platform is not None else "all of the index"))
    for number, endpoint in enumerate(plan.endpoints):
        rows.append(("" if number else "Asked in order", _endpoint_text(endpoint)))
    missing = sum(not layer.present for layer in plan.layers)
    if plan.fetch:
        rows.append(("To fetch", f"{size(plan.download_bytes)}, {missing} of {len(plan.layers)} layers"))
    else:
        rows.append(("To fetch", "nothing: it is here, and the policy is content with that"))
    rows.append(("Here already", size(plan.present_bytes)))
    enough = "" if plan.needed_bytes <= plan.free_bytes else ": not enough"
    rows.append(("Disk", f"{size(plan.needed_bytes)} needed, {size(plan.free_bytes)} free{enough}"))
    return pairs(rows, style=style)


def pushed_text(report: PushReport, style: Style) -> str:
    """Return what a push did, in one line."""
    name = style.bold(f"{Reference.parse(report.ref).familiar}:")
    there = f", {size(report.present_bytes)} were there already" if report.present_bytes else ""
    return f"{name} pushed, {size(report.pushed_bytes)} sent{there} ({report.digest})"


def _endpoint_text(endpoint: PlannedEndpoint) -> str:
    words = [endpoint.reference, "mirror" if endpoint.is_mirror else "registry"]
    words += ["insecure"] if endpoint.insecure else []
    source = endpoint.credential_source
    words.append("no credential" if source is None else f"credential: {one_line(source)}")
    words.append("not asked" if endpoint.answer is None else endpoint.answer)
    return one_line(", ".join(words))
