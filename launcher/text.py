"""Numbers and tables as people read them."""

from collections.abc import Sequence


def short_count(count: float) -> str:
    """Write a count with three digits and a unit: ``412k``, ``1.23M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.{0 if value >= 99.5 else 1 if value >= 9.95 else 2}f}{unit}"
    return f"{count:.0f}"


def short_bytes(size_bytes: float) -> str:
    """Write a size with a binary unit: ``1.5 GiB``."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 2**power:
            return f"{size_bytes / 2**power:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def short_duration(duration_s: float) -> str:
    """Write a duration with its two largest units: ``3h12m``, ``4m05s``, ``12s``."""
    minutes, seconds = divmod(round(max(duration_s, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


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
