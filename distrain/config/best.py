"""Sections of layer 10: which figure of the validations decides, and which checkpoint it keeps."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from distrain.config.section import Section
from distrain.runs.records import HARNESS

FromCheckpoint = Annotated[int, Field(ge=1)] | Literal["last", "best"]
"""Of a stage that builds on a trained one: ``last``, ``best`` (``checkpoint.keep_best`` of that
stage), or the number of a step at which it saves."""


class WatchedMetric(Section):
    """A figure of the validations, and which way is better."""

    metric: str | None = None
    """A metric of the task or what is derived from it (``loss``, ``perplexity``), or of one source
    alone: ``loss/web``; or of a task in ``eval.harness``: ``tasks/arc_easy/acc``. Default: what is
    trained, over all sources."""
    mode: Literal["min", "max"] = "min"
    """Whether a smaller or a larger value is better."""

    @property
    def is_of_harness(self) -> bool:
        """Whether ``lm_eval`` measures it, which may not be done at every validation."""
        return self.metric is not None and self.metric.startswith(HARNESS)

    def value(self, found: Mapping[str, float], trained: str) -> float:
        """Return the watched figure of a validation; NaN where nothing was measured of it."""
        return found.get(self.metric or trained, math.nan)

    def is_better(self, value: float, best: float | None, min_delta: float = 0.0) -> bool:
        """Whether ``value`` beats ``best`` by more than ``min_delta``; NaN and infinity never."""
        if not math.isfinite(value):
            return False
        sign = 1 if self.mode == "min" else -1
        return best is None or sign * value < sign * best - min_delta


class EarlyStopping(WatchedMetric):
    """Stop when a metric has not improved for ``patience`` measurements."""

    patience: Annotated[int, Field(ge=1)] = 3
    """Measurements in a row that may fail to improve."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much a measurement must beat the best one; of ``causal_lm``'s loss in nats."""


class KeepBest(WatchedMetric):
    """Save after each validation that beats all before, and keep the last of these checkpoints."""


def watched_metrics(
    early_stopping: EarlyStopping | None, keep_best: KeepBest | None
) -> dict[str, WatchedMetric]:
    """Return those that are switched on, by setting."""
    found = {"training.early_stopping": early_stopping, "checkpoint.keep_best": keep_best}
    return {setting: watched for setting, watched in found.items() if watched is not None}
