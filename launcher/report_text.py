"""Numbers and labels as the report writes them."""

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
    "short_bytes",
    "short_count",
    "short_duration",
    "significant",
    "tick_text",
]


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
    while decimals < 4 and abs(round(step, decimals) - step) > 1e-9 * step:
        decimals += 1
    return f"{value:,.{decimals}f}"


def date_text(time_s: float | None) -> str:
    """Write a moment: ``2026-01-31 12:30:59`` UTC."""
    if time_s is None:
        return UNKNOWN
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
