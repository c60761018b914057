"""How far a stage has come: all that a restart needs besides the tensors."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from distrain.config.training import EarlyStopping
from distrain.errors import TrainingError
from distrain.monitor.step_result import StepResult
from distrain.runs.records import finite


@dataclass(frozen=True)
class Progress:
    """Counters of one stage, saved with each checkpoint.

    Args:
        step: Steps made; with the schedule also the position in the data (``data.schedule``).
        tokens_seen: Input tokens of those steps.
        train_loss: The trained metric of the last step.
        skipped_in_a_row: Steps up to the last one that were not applied.
        eval_loss: The trained metric of the last validation.
        best_eval_loss: Of the best validation.
        evals_since_best: Validations that did not beat the best one, in a row.
    """

    step: int = 0
    tokens_seen: int = 0
    train_loss: float | None = None
    skipped_in_a_row: int = 0
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    evals_since_best: int = 0

    def after(self, result: StepResult) -> Self:
        """Count one step; a step that was not applied is counted too, its samples are used up."""
        return replace(
            self,
            step=self.step + 1,
            tokens_seen=self.tokens_seen + result.num_tokens,
            train_loss=result.loss,
            skipped_in_a_row=0 if result.applied else self.skipped_in_a_row + 1,
        )

    def check_applied(self, last: StepResult, allowed: int, max_steps: int) -> None:
        """End the stage for good when step after step is not applied.

        Args:
            last: The step just counted.
            allowed: So many in a row are too many.
            max_steps: Of the stage; a shorter one ends when none of its steps was applied.

        Raises:
            TrainingError: The last steps were not applied. Of all ranks alike.
        """
        skipped, limit = self.skipped_in_a_row, min(allowed, max_steps)
        if skipped < limit:
            return
        raise TrainingError(
            f"steps {self.step - skipped + 1} to {self.step}",
            f"that none was applied: loss or gradient norm was not finite (of the last one, "
            f"{last.loss:g} and {last.grad_norm:g})",
            f"fewer than {limit} such steps in a row (training.max_skipped_steps)",
            "Start a new run with a lower optimizer.learning_rate or a longer "
            "lr_scheduler.warmup_steps; `distrain data seen` shows what these steps read.",
        )

    def after_validation(self, loss: float, min_delta: float = 0.0) -> Self:
        """Count one validation that found ``loss`` for the trained metric."""
        best = math.inf if self.best_eval_loss is None else self.best_eval_loss
        improved = loss < best - min_delta  # NaN and infinity are no best
        return replace(
            self,
            eval_loss=loss,
            best_eval_loss=loss if improved else self.best_eval_loss,
            evals_since_best=0 if improved else self.evals_since_best + 1,
        )

    def is_stale(self, early_stopping: EarlyStopping | None) -> bool:
        """Return whether early stopping asks to end here."""
        return early_stopping is not None and self.evals_since_best >= early_stopping.patience

    def to_json(self) -> dict[str, Any]:
        """Form in a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote, or an older version: it counted no skipped steps."""
        # That version also wrote NaN, where there is null now, and took it for the best loss.
        return cls(**{name: finite(number) for name, number in value.items()})
