"""Numbers and labels as the report writes them."""

import unicodedata
from datetime import UTC, datetime

from launcher.text import short_bytes, short_count, short_duration

UNKNOWN = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

__all__ = [
    "MINUS",
    "UNKNOWN",
    "count",
    "date_text",
    "integer",
    "nats",
    "share",
    "short_bytes",
    "short_count",
    "short_duration",
    "significant",
    "tick_text",
    "visible",
]

ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that act on a text, or are none: controls, directions, line ends."""
HARMLESS = frozenset("\n\t\u200c\u200d")
"""Of those: what texts need. The last two join letters, and parts of emoji."""


def nats(value: float | None) -> str:
    """Write a loss: three decimals."""
    return UNKNOWN if value is None else f"{value:.3f}"


def integer(value: float | None) -> str:
    """Write a count in full: ``1,234,567``."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def count(value: int, noun: str) -> str:
    """Write ``1 step``, ``2 steps``."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits, small ones as ``3.0e-4``."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def tick_text(value: float, step: float) -> str:
    """Write a value of an axis whose ticks are ``step`` apart, without needless digits."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.4g}{unit}"
    if step < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    decimals = 0
    # As many decimals as the distance of the ticks has: all labels of an axis then have the same.
    while decimals < 4 and abs(round(step, decimals) - step) > 1e-9 * step:
        decimals += 1
    return f"{value:,.{decimals}f}"


def date_text(time_s: float | None) -> str:
    """Write a moment: ``2026-01-31 12:30:59`` UTC."""
    if time_s is None:
        return UNKNOWN
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def share(part: float, whole: float) -> str:
    """Write a part of a whole in percent; only nothing is 0%, only everything 100%."""
    if not whole:
        return UNKNOWN
    percent = 100 * part / whole
    # Rounded, these would read as nothing and as everything.
    if 0 < percent < 0.05:
        return "<0.1%"
    if 99.95 <= percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%" if 0 < percent < 100 else f"{percent:.0f}%"


def visible(text: str, most: int) -> str:
    """Return the first ``most`` characters; what would act on the page is written as an escape."""
    shown = "".join(
        char
        if char in HARMLESS or unicodedata.category(char) not in ACTING
        else char.encode("unicode_escape", "surrogatepass").decode()
        # Cut before escaping: an escape that is cut in two would say something else.
        for char in text[:most]
    )
    return shown if len(text) <= most else shown + "…"
