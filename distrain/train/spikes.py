"""What is usual for loss and gradient norm, and what lies far above it: a spike.

Median and median absolute deviation (MAD) over the last applied steps: unlike mean and standard
deviation, a spike that was applied hardly moves them.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from distrain.config.spikes import SpikesConfig
from distrain.monitor.step_result import Spike

LEAST_MAD = 0.01
"""Of the median: where a loss hardly scatters, not every small rise is a spike."""


class UsualValues:
    """The last values of one figure, and the limit that follows from them.

    Args:
        window: How many are kept.
        warmup: How many there must be for a judgement.
        threshold: MADs above the median; ``None``: nothing is a spike.
    """

    def __init__(self, window: int, warmup: int, threshold: float | None) -> None:
        self._last: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []
        self._warmup = warmup
        self._threshold = threshold

    def limit_below(self, value: float) -> tuple[float, float] | None:
        """Return median and limit if ``value`` lies above the limit, else ``None``."""
        if self._threshold is None or len(self._last) < self._warmup:
            return None
        median = _median(self._sorted)
        least = LEAST_MAD * abs(median)
        # Of nearly every step: the deviations need not be looked at.
        if not value > median + self._threshold * least:
            return None
        mad = _median(sorted(abs(other - median) for other in self._sorted))
        limit = median + self._threshold * max(mad, least)
        return (median, limit) if value > limit else None

    def take(self, value: float) -> None:
        """Count a value as usual; one that is not finite says nothing."""
        if not math.isfinite(value):
            return
        if len(self._last) == self._last.maxlen:
            del self._sorted[bisect_left(self._sorted, self._last[0])]
        self._last.append(value)
        insort(self._sorted, value)

    def to_json(self) -> list[float]:
        """Form in a checkpoint: the values, oldest first."""
        return list(self._last)

    def load(self, values: Sequence[float]) -> None:
        """Take over what ``to_json`` wrote, or as much of it as a smaller window holds."""
        self._last.clear()
        self._last.extend(float(value) for value in values)
        self._sorted = sorted(self._last)


class SpikeFinder:
    """Tells spikes from what is usual; the same on every rank if it is given the same values."""

    def __init__(self, config: SpikesConfig) -> None:
        thresholds = {"loss": config.loss_threshold, "grad_norm": config.grad_norm_threshold}
        self._usual = {
            metric: UsualValues(config.window, config.warmup_steps, threshold)
            for metric, threshold in thresholds.items()
        }

    def find(self, loss: float, grad_norm: float) -> Spike | None:
        """Judge a step; one that is not finite is no spike, but not applied anyway."""
        for metric, value in (("loss", loss), ("grad_norm", grad_norm)):
            found = self._usual[metric].limit_below(value) if math.isfinite(value) else None
            if found is not None:
                median, limit = found
                return Spike(metric, value, median, limit)
        return None

    def take(self, loss: float, grad_norm: float) -> None:
        """Count an applied step as usual."""
        self._usual["loss"].take(loss)
        self._usual["grad_norm"].take(grad_norm)

    def to_json(self) -> dict[str, list[float]]:
        """Form in a checkpoint."""
        return {metric: values.to_json() for metric, values in self._usual.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``to_json`` wrote; an older version, which wrote nothing, knew nothing."""
        for metric, values in self._usual.items():
            values.load(state.get(metric, ()))


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
