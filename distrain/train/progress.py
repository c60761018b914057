"""How far a stage has come: all that a restart needs besides the tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from distrain.config.best import EarlyStopping, KeepBest, WatchedMetric
from distrain.errors import TrainingError
from distrain.monitor.step_result import StepResult
from distrain.runs.records import finite
from distrain.train.ledger import SampleLedger


@dataclass(frozen=True)
class Progress:
    """Counters of one stage, saved with each checkpoint.

    Args:
        step: Steps made; with the schedule also the position in the data (``data.schedule``).
        tokens_seen: Input tokens of those steps.
        train_loss: The trained metric of the last step.
        skipped_in_a_row: Steps up to the last one that were not applied; those that a rewind
            leaves out are passed over.
        eval_loss: The trained metric of the last validation.
        best_eval_loss: Of the best validation.
        evals_since_best: Validations that did not beat the best one, in a row, by the metric that
            early stopping watches.
        best_watched: The best value of that metric.
        best_step: Steps after which the validation was best, by ``checkpoint.keep_best``.
        best_value: What it found of that metric.
        ledger: Which samples the steps read; kept beside the counters in a checkpoint.
    """

    step: int = 0
    tokens_seen: int = 0
    train_loss: float | None = None
    skipped_in_a_row: int = 0
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    evals_since_best: int = 0
    best_watched: float | None = None
    best_step: int | None = None
    best_value: float | None = None
    ledger: SampleLedger = field(default_factory=SampleLedger)

    def after(self, result: StepResult) -> Self:
        """Count one step; a step that was not applied is counted too, its samples are used up."""
        counted = replace(
            self,
            step=self.step + 1,
            tokens_seen=self.tokens_seen + result.num_tokens,
            ledger=self.ledger.after(result),
        )
        if result.not_applied == "rewind":  # never computed: says nothing of how it stands
            return counted
        return replace(
            counted,
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
            f"that none was applied: loss or gradient norm was not finite, or a spike that was "
            f"skipped (of the last one, {last.loss:g} and {last.grad_norm:g})",
            f"fewer than {limit} such steps in a row (training.max_skipped_steps)",
            "Start a new run with a lower optimizer.learning_rate or a longer "
            "lr_scheduler.warmup_steps; `distrain data seen` shows what these steps read.",
        )

    def after_validation(
        self,
        found: Mapping[str, float],
        trained: str,
        early: EarlyStopping | None = None,
        keep_best: KeepBest | None = None,
    ) -> Self:
        """Count one validation.

        Args:
            found: What it measured, by name.
            trained: The name of what is trained.
            early: What early stopping watches; default: what is trained.
            keep_best: What decides on the best checkpoint; before the first step there is none.
        """
        loss, early = found[trained], early or EarlyStopping()
        if early.is_of_harness and early.metric not in found:
            # Not asked this time: that says nothing of how it stands.
            return self._with_loss(loss)._with_best(found, trained, keep_best)
        watched = early.value(found, trained)
        improved = early.is_better(watched, self.best_watched, early.min_delta)
        progress = replace(
            self._with_loss(loss),
            best_watched=watched if improved else self.best_watched,
            evals_since_best=0 if improved else self.evals_since_best + 1,
        )
        return progress._with_best(found, trained, keep_best)

    def _with_loss(self, loss: float) -> Self:
        is_least = WatchedMetric().is_better(loss, self.best_eval_loss)
        best = loss if is_least else self.best_eval_loss
        return replace(self, eval_loss=loss, best_eval_loss=best)

    def _with_best(
        self, found: Mapping[str, float], trained: str, keep_best: KeepBest | None
    ) -> Self:
        if keep_best is None or self.step == 0:
            return self
        value = keep_best.value(found, trained)
        if not keep_best.is_better(value, self.best_value):
            return self
        return replace(self, best_step=self.step, best_value=value)

    def without_best(self, *, early: bool, kept: bool) -> Self:
        """Forget the best value that early stopping has seen, or the one that was kept, or both."""
        progress = replace(self, best_watched=None, evals_since_best=0) if early else self
        return replace(progress, best_step=None, best_value=None) if kept else progress

    def is_stale(self, early_stopping: EarlyStopping | None) -> bool:
        """Return whether early stopping asks to end here."""
        return early_stopping is not None and self.evals_since_best >= early_stopping.patience

    def check_complete(
        self,
        max_steps: int,
        end: int,
        early: EarlyStopping | None,
        skipped: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Make sure that a stage which is about to be done has read what it was to read.

        Args:
            max_steps: Where the stage ends, unless it stopped early.
            end: Samples that the schedule gives to the steps made.
            early: What asks to stop early, if anything does.
            skipped: Samples of those steps that are left out by decision.

        Raises:
            TrainingError: Samples are missing, were read twice or out of order; says which.
        """
        ledger = self.ledger
        found = ledger.find_difference(self.step, end) or ledger.find_unrecorded(skipped)
        if found is None and self.step < max_steps and not self.is_stale(early):
            found = f"an end after {self.step} of {max_steps} steps, which nobody asked for"
        if found is None:
            return
        raise TrainingError(
            "the samples that the steps of this stage read",
            found,
            f"samples {ledger.first_sample} to {end - 1}, each once and in order, and left out as "
            "skips.jsonl says",
            "The trained model is not that of the recipe. This is a defect of distrain, or a "
            "checkpoint was changed by hand: start a new run, and report it with metrics.jsonl "
            "and events.jsonl of this one.",
        )

    def to_json(self) -> dict[str, Any]:
        """Form in a checkpoint, of the counters alone."""
        return {name: value for name, value in asdict(self).items() if name != "ledger"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote, or an older version: it counted no skipped steps."""
        # That version also wrote NaN, where there is null now, and took it for the best loss.
        saved = {name: finite(number) for name, number in value.items()}
        if "best_watched" not in saved:  # of a version that watched the loss and nothing else
            saved["best_watched"] = saved.get("best_eval_loss")
        return cls(**saved)
