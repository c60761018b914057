"""What the training loop is given: one named collaborator a layer."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from distrain.checkpoint.manager import CheckpointManager
from distrain.config.training import TrainingConfig
from distrain.data.loader import Loader
from distrain.errors import CheckpointError
from distrain.evaluation.validation import SummedLoss, Validation
from distrain.fault.wishes import Wishes
from distrain.monitor.monitor import Monitor
from distrain.parallel.collectives import HostGroup
from distrain.parallel.engine import Engine
from distrain.train.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One stage's training, ready to start.

    Args:
        seed: Of dropout; sample order and initial weights have used it already.
        max_steps: Where the stage ends.
        max_grad_norm: Global L2 norm to which gradients are clipped.
        save_steps: Steps between two checkpoints.
        lr_at: Learning rate of the update that follows ``step`` steps.
        monitor: Writes the records; on rank 0 only.
    """

    seed: int
    max_steps: int
    max_grad_norm: float
    save_steps: int
    training: TrainingConfig
    device: torch.device
    host: HostGroup
    loader: Loader
    engine: Engine
    loss: SummedLoss
    lr_at: Callable[[int], float]
    checkpoints: CheckpointManager
    validation: Validation
    monitor: Monitor | None
    wishes: Wishes

    def restore(self) -> Progress:
        """Go back to the newest good checkpoint, or begin at step 0. Collective."""
        restored = self.checkpoints.restore(self.engine.state())
        if restored is None:
            progress = Progress()
        else:
            step, extra = restored
            progress = Progress.from_json(extra["progress"])
            if progress.step != step:
                raise CheckpointError(
                    f"checkpoint of step {step}",
                    f"progress of step {progress.step} inside it",
                    "the same step",
                    "Remove this checkpoint; the one before it will be used.",
                )
            self.engine.loaded(extra["optimizer_steps"])
            self.loader.feed.restore(extra["data"], step)
        if self.monitor is not None:
            # The validation before the first step is made again, unlike that of a checkpoint.
            lost = self.monitor.truncate_after(progress.step or -1)
            if restored is not None:
                self.monitor.event("resumed", step=progress.step, lost_records=lost)
                log.info(
                    "going on from the checkpoint of step %d; made again: %d records after it",
                    progress.step,
                    lost,
                )
        return progress

    def save(self, progress: Progress) -> None:
        """Begin a checkpoint of this moment; returns once the state is copied. Collective."""
        self.checkpoints.save(progress.step, self.engine.state(), self._extra(progress))

    def save_and_wait(self, progress: Progress) -> None:
        """Make sure that this moment is on disk. Collective."""
        self.checkpoints.save_and_wait(progress.step, self.engine.state(), self._extra(progress))

    def _extra(self, progress: Progress) -> dict[str, object]:
        return {
            "progress": progress.to_json(),
            "optimizer_steps": self.engine.optimizer_steps(),
            "data": self.loader.feed.state(),
        }
