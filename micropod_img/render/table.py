"""Tables for people: columns as wide as their cells, two spaces between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropod_img.render.text import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from micropod_img.render.style import Style


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, style: Style, right: Collection[str] = ()) -> str:
    """Return a table.

    Args:
        header: Names of the columns.
        rows: Cells, as many in each row as there are columns; what a terminal would act on is escaped.
        style: How the header stands out.
        right: Names of columns that are aligned to the right, as numbers are.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [header, *cells]) for column in range(len(header))]
    lines = []
    for row in [header, *cells]:
        aligned = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    lines[0] = style.bold(lines[0])
    return "\n".join(lines)


def pairs(rows: Sequence[tuple[str, str]], *, style: Style) -> str:
    """Return lines of a name and what belongs to it; a row without a name goes on with the one above."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{style.bold(name)}{' ' * (width - len(name))}  {one_line(text)}" for name, text in rows)
