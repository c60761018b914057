"""What one optimizer step showed: made by the loop, counted by progress, written by the monitor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

NotApplied = Literal["nonfinite", "spike", "rewind"]
"""Why a step was not applied: loss or norm not finite; a spike, skipped in its place; one of the
steps that a rewind leaves out, which are not computed."""


@dataclass(frozen=True)
class Spike:
    """A figure of a step that lies far above what is usual.

    Args:
        metric: ``loss``, the trained metric, or ``grad_norm``.
        value: What it was.
        median: Of the steps before.
        limit: What would have been taken for usual.
    """

    metric: str
    value: float
    median: float
    limit: float


@dataclass(frozen=True)
class StepResult:
    """Figures of the global batch; the same on every rank.

    Args:
        loss: The trained metric.
        learning_rate: Of the update.
        grad_norm: L2 norm of the global gradient before clipping; infinite where there is none.
        applied: Whether the update was made; see ``engine.may_apply``.
        first_sample: Number of the batch's first sample, counted over the run.
        num_samples: Of the batch.
        num_tokens: Its positions: input tokens, and padding.
        num_targets: Its target tokens.
        batch_hash: Sum of the ranks' ``Batch.digest``, modulo 2**32.
        memory_gib: Peak of the largest rank, up to the beginning of the step.
        others: The task's other metrics, by name.
        spike: What of the step was a spike, if it was computed.
        not_applied: Why the update was not made; ``None`` if it was.
        num_padding: Of ``num_tokens``, positions that hold no input.
    """

    loss: float
    learning_rate: float
    grad_norm: float
    applied: bool
    first_sample: int
    num_samples: int
    num_tokens: int
    num_targets: int
    batch_hash: int
    memory_gib: float
    others: Mapping[str, float] = field(default_factory=dict)
    spike: Spike | None = None
    not_applied: NotApplied | None = None
    num_padding: int = 0
