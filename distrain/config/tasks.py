"""What a task is called and what it reports, for all that must know without torch.

The other half, which computes, is ``distrain.tasks``. A task has an entry in both.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from distrain.config.section import NameIn

NATS_PER_TARGET = "nats per target token"
"""Of next-token losses: only figures in this unit compare to token frequencies."""


@dataclass(frozen=True)
class Metric:
    """A sum over what was measured, divided by another.

    Args:
        name: In records: ``train/<name>`` and ``eval/<name>``.
        unit: Of the quotient.
        form: How it is written on the screen.
    """

    name: str
    unit: str
    form: str = ".3f"


@dataclass(frozen=True)
class Derived:
    """A figure of a validation that is computed from a metric of it.

    Args:
        name: In records: ``eval/<name>``.
        of: The metric's name.
        compute: From the metric's value.
        form: How it is written on the screen.
    """

    name: str
    of: str
    compute: Callable[[float], float]
    form: str = ".1f"


@dataclass(frozen=True)
class TaskForm:
    """What recipe, records, status and report know of a task.

    Args:
        trained: What the update makes smaller: early stopping and the best validation go by it.
        others: What is measured beside it.
        derived: What validations show of them.
        batches: Stage kinds whose batches it can read.
    """

    trained: Metric
    others: tuple[Metric, ...] = ()
    derived: tuple[Derived, ...] = ()
    batches: frozenset[str] = frozenset({"pretrain", "sft"})

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The trained one, then the others."""
        return (self.trained, *self.others)

    @property
    def num_sums(self) -> int:
        """Sums that a microbatch gives: the trained numerator, and a pair of each other metric."""
        return 1 + 2 * len(self.others)

    def shown_in_validation(self) -> list[tuple[str, str]]:
        """List (name, form) of all that a validation shows, metrics first."""
        metrics = [(metric.name, metric.form) for metric in self.metrics]
        return metrics + [(figure.name, figure.form) for figure in self.derived]

    def with_derived(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add the derived figures to the metrics of a validation."""
        return dict(values) | {d.name: d.compute(values[d.of]) for d in self.derived}


def perplexity(loss: float) -> float:
    """Turn nats into perplexity; infinite where float64 ends."""
    return math.exp(loss) if loss < 700 else math.inf


CAUSAL_LM = "causal_lm"
TASK_FORMS: dict[str, TaskForm] = {
    CAUSAL_LM: TaskForm(
        trained=Metric("loss", NATS_PER_TARGET),
        derived=(Derived("perplexity", "loss", perplexity),),
    ),
}
TaskName = Annotated[str, NameIn(TASK_FORMS)]
