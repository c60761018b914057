"""How far a stage has come: all that a restart needs besides the tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from distrain.config.training import EarlyStopping
from distrain.parallel.engine import Update


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step showed; the same on every rank.

    Args:
        loss: Mean over the global batch, in nats per target token.
        update: What the engine made of it.
        lr: Learning rate of the update.
        num_tokens: Input tokens of the global batch.
        num_targets: Target tokens of the global batch.
    """

    loss: float
    update: Update
    lr: float
    num_tokens: int
    num_targets: int


@dataclass(frozen=True)
class Progress:
    """Counters of one stage, saved with each checkpoint.

    Args:
        step: Steps made; with the schedule also the position in the data (``data.schedule``).
        tokens_seen: Input tokens of those steps.
        train_loss: Of the last step.
        eval_loss: Of the last validation.
        best_eval_loss: Of the best validation.
        evals_since_best: Validations that did not beat the best one, in a row.
    """

    step: int = 0
    tokens_seen: int = 0
    train_loss: float | None = None
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
        )

    def after_validation(self, loss: float, min_delta: float = 0.0) -> Self:
        """Count one validation of ``loss`` nats."""
        improved = self.best_eval_loss is None or loss < self.best_eval_loss - min_delta
        return replace(
            self,
            eval_loss=loss,
            best_eval_loss=loss if improved else self.best_eval_loss,
            evals_since_best=0 if improved else self.evals_since_best + 1,
        )

    def is_stale(self, early_stopping: EarlyStopping | None) -> bool:
        """Tell whether early stopping asks to end here."""
        return early_stopping is not None and self.evals_since_best >= early_stopping.patience

    def to_json(self) -> dict[str, Any]:
        """Form in a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""
        return cls(**value)
