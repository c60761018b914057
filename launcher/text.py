"""Numbers and tables as people read them."""

from collections.abc import Sequence

from distrain.runs.figures import short_count, short_duration

__all__ = ["plural", "short_bytes", "short_count", "short_duration", "table"]


def short_bytes(size_bytes: float) -> str:
    """Write a size with a binary unit: ``1.5 GiB``."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 2**power:
            return f"{size_bytes / 2**power:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out columns by their widest cell, two spaces apart."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def plural(count: int, noun: str) -> str:
    """Write ``1 node`` or ``2 nodes``."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"
