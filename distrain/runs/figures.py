"""Figures as they stand in a line on the screen."""


def short_count(count: float) -> str:
    """Write a count with three digits and a unit: ``412k``, ``1.23M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.{0 if value >= 99.5 else 1 if value >= 9.95 else 2}f}{unit}"
    return f"{count:.0f}"


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


def number_text(value: float | None, form: str) -> str:
    """Write a figure of a record, where null stands for what is not finite."""
    return "not finite" if value is None else format(value, form)
