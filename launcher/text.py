"""Numbers and tables as people read them."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from distrain.runs.figures import short_count, short_duration

__all__ = ["plural", "short_bytes", "short_count", "short_duration", "table", "wrapped"]

WIDTH = 80
"""Characters of a line of a terminal."""
NARROWEST = 8
"""To which a column is wrapped, to fit."""
GAP = "  "


def short_bytes(size_bytes: float) -> str:
    """Write a size with a binary unit: ``1.5 GiB``."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 2**power:
            return f"{size_bytes / 2**power:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Lay out columns by their widest cell, two spaces apart.

    Args:
        header: One cell a column.
        rows: Of as many cells each.
        width: Characters of a line at most: the widest cells are wrapped.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    if width is not None:
        while sum(widths) + len(GAP) * (len(widths) - 1) > width and max(widths) > NARROWEST:
            widths[widths.index(max(widths))] -= 1
    return "\n".join(part for line in lines for part in _row(line, widths))


def wrapped(text: str, width: int = WIDTH) -> str:
    """Cut a sentence into lines at its spaces; a longer word, such as a path, stays whole."""
    return textwrap.fill(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Lay out one row, over as many lines as its longest cell needs."""
    parts = [
        textwrap.wrap(cell, width, break_on_hyphens=False) if len(cell) > width else [cell]
        for cell, width in zip(cells, widths, strict=True)
    ]
    return [
        GAP.join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in zip_longest(*parts, fillvalue="")
    ]


def plural(count: int, noun: str) -> str:
    """Write ``1 node`` or ``2 nodes``."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"
