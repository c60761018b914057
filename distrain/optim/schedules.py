"""Learning rate as a pure function of the step, so that resuming needs only the step.

A schedule gives the factor after warm-up. The first update after it has factor 1, the last
update of the run has ``min_lr_ratio`` (``constant`` apart).
"""

import math
from collections.abc import Callable

from distrain.config.training import LrSchedulerConfig

LrSchedule = Callable[[int, int, LrSchedulerConfig], float]
"""(step, total_steps, config) -> factor; called for ``warmup_steps <= step < total_steps``."""


def cosine(step: int, total_steps: int, config: LrSchedulerConfig) -> float:
    """Fall along half a cosine (SGDR without restarts, arXiv 1608.03983)."""
    # The last update is ``total_steps - 1``: it, and not the one after it, reaches the minimum.
    span = total_steps - 1 - config.warmup_steps
    progress = (step - config.warmup_steps) / span if span > 0 else 0.0
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * share


def wsd(step: int, total_steps: int, config: LrSchedulerConfig) -> float:
    """Hold, then fall linearly over the last ``decay_steps`` (MiniCPM, arXiv 2404.06395)."""
    decay_steps = config.decay_steps or max(1, total_steps // 10)
    # A decay longer than the run would begin in the warm-up.
    decay_steps = max(1, min(decay_steps, total_steps - config.warmup_steps))
    progress = max(0, step + 1 - (total_steps - decay_steps)) / decay_steps
    return (1 - progress) + config.min_lr_ratio * progress


def constant(step: int, total_steps: int, config: LrSchedulerConfig) -> float:
    """Keep the peak."""
    return 1.0


SCHEDULES: dict[str, LrSchedule] = {"cosine": cosine, "wsd": wsd, "constant": constant}


def lr_at(step: int, total_steps: int, optimizer_lr: float, config: LrSchedulerConfig) -> float:
    """Return the learning rate of one update.

    Warm-up is linear: update s of w has ``(s + 1) / (w + 1)`` of the peak, so the first is not
    wasted on 0 and the first one after it has the whole peak.

    Args:
        step: Index of the update, counted from 0. From ``total_steps`` on, the last value stays.
        total_steps: Updates of the whole run.
        optimizer_lr: Peak.
        config: Warm-up and shape.
    """
    if step < config.warmup_steps:
        return optimizer_lr * (step + 1) / (config.warmup_steps + 1)
    # A run shorter than its warm-up, or asked beyond its end, must not leave the schedule's domain.
    last = max(config.warmup_steps, total_steps - 1)
    return optimizer_lr * SCHEDULES[config.name](min(step, last), total_steps, config)
