"""Intervals of figures that are sums over examples divided by sums over examples. Pure.

A loss per token is such a figure. How far it would move with other examples of the same kind is
asked of the examples at hand: as many are drawn from them with replacement, again and again (the
bootstrap, Efron 1979). Models that were measured on the same examples are compared within each
draw, so what makes an example hard for both cancels out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 2_000
COVERAGE = 0.95
CELLS_AT_ONCE = 1 << 22
"""Examples by draws that are held at a time: 32 MiB."""


@dataclass(frozen=True)
class ExampleSums:
    """What each example adds to a figure, both of shape (examples,).

    Args:
        sums: Such as its loss in nats, over its targets.
        counts: What the sums are divided by, such as its targets.
    """

    sums: Floats
    counts: Floats

    @property
    def ratio(self) -> float:
        """The figure over all examples."""
        return float(self.sums.sum() / self.counts.sum())

    def where(self, chosen: NDArray[np.bool_]) -> "ExampleSums":
        """Keep some of the examples."""
        return ExampleSums(self.sums[chosen], self.counts[chosen])


@dataclass(frozen=True)
class Interval:
    """A figure, and between which values it lies with a probability of ``COVERAGE``."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Form in ``result.json``."""
        return {"value": self.value, "low": self.low, "high": self.high}


def paired_intervals(
    measured: Mapping[str, ExampleSums],
    differences: Mapping[str, Mapping[str, int]],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Interval]:
    """Compute sums and differences of figures with their percentile intervals.

    Args:
        measured: Figures of the same examples, in the same order.
        differences: By name, which figures are added up, and how often: ``{"gain": {"base": 1,
            "tuned": -1}}``.
        seed: Of the draws: the same examples always give the same intervals.
        draws: How many.

    Raises:
        ValueError: The figures are of different numbers of examples, or one has no counts.
    """
    sizes = {len(each.sums) for each in measured.values()}
    if len(sizes) != 1 or not all((each.counts > 0).all() for each in measured.values()):
        raise ValueError(f"figures of {sorted(sizes)} examples, each to have a count above 0")
    drawn = _draw_ratios(list(measured.values()), sizes.pop(), seed, draws)
    places = {name: place for place, name in enumerate(measured)}
    tail = 100 * (1 - COVERAGE) / 2
    found = {}
    for name, weights in differences.items():
        value = sum(weight * measured[of].ratio for of, weight in weights.items())
        spread = sum(weight * drawn[:, places[of]] for of, weight in weights.items())
        low, high = np.percentile(spread, [tail, 100 - tail]).tolist()
        found[name] = Interval(value, low, high)
    return found


def _draw_ratios(measured: list[ExampleSums], count: int, seed: int, draws: int) -> Floats:
    """Return each figure over examples that were drawn, shape (draws, figures)."""
    generator = np.random.default_rng(seed)
    # (examples, 2 * figures): how often an example was drawn times this gives all sums at once.
    columns = np.stack([part for each in measured for part in (each.sums, each.counts)], axis=1)
    at_once = max(1, CELLS_AT_ONCE // count)
    ratios = []
    for first in range(0, draws, at_once):
        rows = min(at_once, draws - first)
        chosen = generator.integers(0, count, (rows, count))
        cells = (chosen + count * np.arange(rows)[:, None]).ravel()
        times = np.bincount(cells, minlength=rows * count).reshape(rows, count)
        sums = times.astype(np.float64) @ columns
        ratios.append(sums[:, 0::2] / sums[:, 1::2])
    return np.concatenate(ratios)
