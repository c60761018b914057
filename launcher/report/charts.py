"""Charts of the report: scales, ticks and compact SVG paths. Pure; knows nothing of runs.

Labels are HTML around an SVG that stretches, so that text keeps its size on a phone. A path's x is
the step counted from the first one drawn, its y runs from 0 (top) to ``GRID`` (bottom): the page's
script reads the values for its tooltips back out of the path.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.report.text import significant, tick_text

Point = tuple[int, float | None]
"""Step and value; a value that is none leaves a gap."""

GRID = 8000
"""Steps of the y axis: finer than a screen, coarse enough for short numbers."""
NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
LOG_RATIO = 50.0
"""A series whose largest value is so many times its median is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Series:
    """Points of one quantity."""

    label: str
    style: str
    """CSS class: its colour."""
    points: Sequence[Point]
    is_dotted: bool = False
    """Few points, each worth a dot."""


@dataclass(frozen=True)
class Level:
    """A horizontal line for comparison."""

    label: str
    value: float


@dataclass(frozen=True)
class Label:
    """Text at a place along an axis, in percent from its beginning."""

    at: float
    text: str


@dataclass(frozen=True)
class Path:
    """One drawn series."""

    label: str
    style: str
    data: str
    num_points: int
    is_dotted: bool
    line: str
    """Joins the dots; empty for a series that is a line itself."""


@dataclass(frozen=True)
class Chart:
    """A chart laid out, as the template draws it."""

    title: str
    unit: str
    headline: str
    paths: tuple[Path, ...]
    levels: tuple[Label, ...]
    x_ticks: tuple[Label, ...]
    y_ticks: tuple[Label, ...]
    marks: tuple[Label, ...]
    first_step: int
    last_step: int
    low: float
    high: float
    is_log: bool

    @property
    def width(self) -> int:
        """Of the view box."""
        return max(self.last_step - self.first_step, 1)


@dataclass(frozen=True)
class Scale:
    """Maps values to a fraction of the axis, 0 at ``low``."""

    low: float
    high: float
    is_log: bool

    def __call__(self, value: float) -> float:
        """Return the place of ``value``."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class ChartSpec:
    """The series of a chart, and how its axis may look.

    Args:
        from_zero: The axis begins at zero, for quantities whose height means something.
        may_be_log: The axis may turn logarithmic when outliers would flatten the rest.
        marks: Steps at which something happened to the stage, with its name.
    """

    title: str
    unit: str
    series: tuple[Series, ...]
    headline: str = ""
    levels: tuple[Level, ...] = ()
    marks: tuple[tuple[int, str], ...] = ()
    from_zero: bool = False
    may_be_log: bool = False


def build_chart(spec: ChartSpec) -> Chart | None:
    """Lay a chart out; ``None`` when no series has a value."""
    points = [point for series in spec.series for point in series.points if point[1] is not None]
    if not points:
        return None
    values = [value for _, value in points if value is not None]
    # Over points with a value: series begin at different steps, and share one axis.
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    scale, y_ticks = _y_axis(spec, values)
    span = max(last - first, 1)

    def x_percent(step: float) -> float:
        return round(100 * (step - first) / span, 2)

    return Chart(
        title=spec.title,
        unit=spec.unit + (", log scale" if scale.is_log else ""),
        headline=spec.headline,
        paths=tuple(_draw(series, first, scale) for series in spec.series if _has_value(series)),
        levels=tuple(
            Label(round(100 * scale(level.value), 2), f"{level.label} {level.value:.3f}")
            for level in sorted(spec.levels, key=lambda level: level.value)
        ),
        x_ticks=tuple(
            Label(x_percent(tick), tick_text(tick, 1)) for tick in _whole_ticks(first, last)
        ),
        y_ticks=tuple(Label(round(100 * scale(tick), 2), text) for tick, text in y_ticks),
        # Events outside of what is drawn would lie beside the chart.
        marks=tuple(
            Label(x_percent(step), text) for step, text in spec.marks if first <= step <= last
        ),
        first_step=first,
        last_step=last,
        low=scale.low,
        high=scale.high,
        is_log=scale.is_log,
    )


def nice_ticks(low: float, high: float, most: int) -> list[tuple[float, float]]:
    """Choose round values from ``low`` to ``high`` or just beyond, with their distance."""
    span = high - low
    if span <= 0:
        span = abs(high) or 1.0
    rough = span / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    # A hair less than asked, or rounding makes of 0.2 the next larger one.
    step = next(power * nice for nice in NICE if power * nice >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [(number * step, step) for number in range(first, max(last, first + 1) + 1)]


def _whole_ticks(first: int, last: int) -> list[float]:
    if first == last:
        return [first]
    ticks = [tick for tick, _ in nice_ticks(first, last, 6)]
    return [tick for tick in ticks if tick == round(tick) and first <= tick <= last]


def path_data(points: Sequence[Point], first: int, scale: Scale) -> tuple[str, int]:
    """Write a polyline in relative coordinates; return it with its number of points.

    A gap begins a new piece. A piece of one point gets a line of no length, which round caps show.
    """
    pieces: list[str] = []
    num_points = 0
    at_x, at_y = 0, 0
    for piece in _pieces(points):
        for index, (step, value) in enumerate(piece):
            # Whole numbers, relative to the last point: a path of thousands of steps stays small.
            x, y = step - first, round((1 - scale(value)) * GRID)
            if index == 0:
                pieces.append(f"M{x} {y}")
            else:
                # "l" opens the relative part; a minus sign separates numbers by itself.
                gap = "l" if index == 1 else " "
                dy = y - at_y
                pieces.append(f"{gap}{x - at_x}{'' if dy < 0 else ' '}{dy}")
            at_x, at_y = x, y
            num_points += 1
        if len(piece) == 1:
            pieces.append("h0")
    return "".join(pieces), num_points


def _draw(series: Series, first: int, scale: Scale) -> Path:
    line, num_points = path_data(series.points, first, scale)
    # Dots are pieces of one point each; the line that joins them is a path of its own.
    data = line
    if series.is_dotted:
        single = [path_data([point], first, scale)[0] for point in series.points]
        data = "".join(single)
    joined = line if series.is_dotted else ""
    return Path(series.label, series.style, data, num_points, series.is_dotted, joined)


def _pieces(points: Sequence[Point]) -> Iterator[list[tuple[int, float]]]:
    piece: list[tuple[int, float]] = []
    for step, value in points:
        if value is not None:
            piece.append((step, value))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _has_value(series: Series) -> bool:
    return any(value is not None for _, value in series.points)


def _y_axis(spec: ChartSpec, values: list[float]) -> tuple[Scale, list[tuple[float, str]]]:
    low, high = min(values), max(values)
    # The median and not the mean, which outliers would pull up with them.
    median = sorted(values)[len(values) // 2]
    if spec.may_be_log and low > 0 and high > LOG_RATIO * median:
        return _log_axis(low, high)
    shown = [*values, *(level.value for level in spec.levels)]
    low, high = (0.0 if spec.from_zero else min(shown)), max(shown)
    ticks = nice_ticks(low, high, 5)
    step = ticks[0][1]
    scale = Scale(ticks[0][0], ticks[-1][0], is_log=False)
    return scale, [(tick, tick_text(tick, step)) for tick, _ in ticks]


def _log_axis(low: float, high: float) -> tuple[Scale, list[tuple[float, str]]]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    # Whole powers only, and at most six labels.
    every = math.ceil((last - first) / 5)
    ticks = [10.0**power for power in range(first, last + 1, every)]
    scale = Scale(10.0**first, 10.0**last, is_log=True)
    return scale, [(tick, significant(tick, 1)) for tick in ticks]
