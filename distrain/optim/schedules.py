"""Learning rate as a pure function of the step, so that resuming needs only the step.

A schedule gives the factor after warm-up. ``s`` counts the updates since then from 0, ``n`` is how
many there are, and ``m`` is ``min_lr_ratio``. What falls to the end of the run has ``m`` at its
last update, s = n - 1, and not one later; so transformers' formulas hold with n - 1 for its number
of steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distrain.config.schedules import (
    CosineLrConfig,
    CosineRestartsLrConfig,
    CyclicalLrConfig,
    ExponentialLrConfig,
    InverseSqrtLrConfig,
    LinearLrConfig,
    LrSchedulerConfig,
    OneCycleLrConfig,
    PolynomialLrConfig,
    StepLrConfig,
    WsdLrConfig,
)

DEFAULT_TIMESCALE = 10_000
DEFAULT_CYCLES = 4


@dataclass(frozen=True)
class Position:
    """Where an update lies.

    Args:
        step: Counted from 0 over the whole run; at least ``warmup``.
        total: Updates of the whole run.
        warmup: Those of the warm-up.
    """

    step: int
    total: int
    warmup: int

    @property
    def s(self) -> int:
        """Updates since the warm-up."""
        return self.step - self.warmup

    @property
    def n(self) -> int:
        """Updates after the warm-up, at least one."""
        return max(1, self.total - self.warmup)

    @property
    def progress(self) -> float:
        """Share of the way to the last update, which has 1."""
        return self.s / (self.n - 1) if self.n > 1 else 0.0


LrSchedule = Callable[[Position, Any], float]
"""(position, section) -> factor; called from the end of the warm-up on."""


def constant(at: Position, config: LrSchedulerConfig) -> float:
    """Return 1."""
    del at, config
    return 1.0


def linear(at: Position, config: LinearLrConfig) -> float:
    """Return m + (1 - m)(1 - s / (n - 1))."""
    return _between(config.min_lr_ratio, 1 - at.progress)


def cosine(at: Position, config: CosineLrConfig) -> float:
    """Return m + (1 - m)(1 + cos(pi s / (n - 1))) / 2."""
    return _between(config.min_lr_ratio, _half_cosine(at.progress))


def wsd(at: Position, config: WsdLrConfig) -> float:
    """Return 1, and over the last d updates m + (1 - m) tail(k / d), k = 1 .. d.

    The tail is 1 - p, half a cosine, or 1 - sqrt(p).
    """
    length = config.decay_steps or max(1, at.total // 10)
    # A decay longer than the run would begin in the warm-up.
    length = max(1, min(length, at.total - at.warmup))
    progress = max(0, at.step + 1 - (at.total - length)) / length
    if config.decay == "linear":
        return (1 - progress) + config.min_lr_ratio * progress
    tail = _half_cosine(progress) if config.decay == "cosine" else 1 - math.sqrt(progress)
    return _between(config.min_lr_ratio, tail)


def polynomial(at: Position, config: PolynomialLrConfig) -> float:
    """Return m + (1 - m)(1 - s / (n - 1))^power."""
    return _between(config.min_lr_ratio, (1 - at.progress) ** config.power)


def inverse_sqrt(at: Position, config: InverseSqrtLrConfig) -> float:
    """Return sqrt(t / (t + s))."""
    timescale = config.timescale or at.warmup or DEFAULT_TIMESCALE
    return math.sqrt(timescale / (timescale + at.s))


def step(at: Position, config: StepLrConfig) -> float:
    """Return gamma^floor(s / step_size)."""
    return float(config.gamma ** (at.s // config.step_size))


def exponential(at: Position, config: ExponentialLrConfig) -> float:
    """Return m^(s / (n - 1))."""
    return float(config.min_lr_ratio**at.progress)


def cosine_restarts(at: Position, config: CosineRestartsLrConfig) -> float:
    """Return m + (1 - m)(1 + cos(pi c / l)) / 2 at update c of a cycle of l.

    The first cycle has ``cycle_steps``, each later one ``cycle_mult`` times the one before.
    """
    length = config.cycle_steps or math.ceil(at.n / DEFAULT_CYCLES)
    place = at.s
    while place >= length:
        if config.cycle_mult == 1:
            place %= length
            break
        place, length = place - length, length * config.cycle_mult
    return _between(config.min_lr_ratio, _half_cosine(place / length))


def cyclical(at: Position, config: CyclicalLrConfig) -> float:
    """Return m + (1 - m) h (1 - |2 c / l - 1|) at update c of a cycle of l.

    The height h is 1, or halved from cycle to cycle.
    """
    length = config.cycle_steps or max(2, math.ceil(at.n / DEFAULT_CYCLES))
    cycle, place = divmod(at.s, length)
    height = 1.0 if config.mode == "triangular" else 0.5**cycle
    return _between(config.min_lr_ratio, height * (1 - abs(2 * place / length - 1)))


def one_cycle(at: Position, config: OneCycleLrConfig) -> float:
    """Rise from 1 / div_factor to 1, fall to 1 / (div_factor final_div_factor).

    The peak is at s = pct_start n - 1, between two updates where that is no whole number.
    """
    first = 1 / config.div_factor
    peak = config.pct_start * at.n - 1
    if at.s <= peak:
        start, end, share = first, 1.0, at.s / peak
    else:
        start, end = 1.0, first / config.final_div_factor
        share = (at.s - peak) / max(at.n - 1 - peak, 1.0)
    shape = _half_cosine(share) if config.anneal == "cosine" else 1 - share
    return end + (start - end) * shape


SCHEDULES: dict[str, LrSchedule] = {
    "cosine": cosine,
    "wsd": wsd,
    "constant": constant,
    "linear": linear,
    "polynomial": polynomial,
    "inverse_sqrt": inverse_sqrt,
    "step": step,
    "exponential": exponential,
    "cosine_restarts": cosine_restarts,
    "cyclical": cyclical,
    "one_cycle": one_cycle,
}
"""Name -> factor; the settings are those of ``distrain.config.schedules``."""


def lr_at(step: int, total_steps: int, optimizer_lr: float, config: LrSchedulerConfig) -> float:
    """Return the learning rate of one update.

    Warm-up is linear: update s of w has ``(s + 1) / (w + 1)`` of the peak, so the first is not
    wasted on 0 and the first one after it has what the schedule begins with.

    Args:
        step: Index of the update, counted from 0. From ``total_steps`` on, the last value stays.
        total_steps: Updates of the whole run.
        optimizer_lr: Peak.
        config: Warm-up and shape.
    """
    warmup = config.warmup(total_steps)
    if step < warmup:
        return optimizer_lr * (step + 1) / (warmup + 1)
    # A run shorter than its warm-up, or asked beyond its end, must not leave the schedule's domain.
    last = max(warmup, total_steps - 1)
    at = Position(min(step, last), total_steps, warmup)
    return optimizer_lr * SCHEDULES[config.name](at, config)


def _between(low: float, share: float) -> float:
    return low + (1 - low) * share


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))
