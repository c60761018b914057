"""Validation: the mean loss over a fixed set of samples, the same whatever the number of ranks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distrain.data.samples.loader import Microbatch
from distrain.parallel.collectives import HostGroup
from distrain.parallel.engine import Engine

SummedLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits, target_ids) -> sum over target tokens, in nats."""


@dataclass(frozen=True)
class Validation:
    """A set of samples and when to measure them.

    Args:
        engine: What runs the forward pass.
        host: Agreement between ranks.
        loss: Layer 6.
        microbatches: Makes this rank's share; the same number of microbatches on every rank,
            since a forward pass is collective under sharding engines.
        eval_steps: Steps between two measurements.
        device: Where the microbatches go.
    """

    engine: Engine
    host: HostGroup
    loss: SummedLoss
    microbatches: Callable[[], Iterator[Microbatch]]
    eval_steps: int
    device: torch.device

    def is_due(self, step: int, last_step: int) -> bool:
        """Tell whether to measure after ``step`` steps: every ``eval_steps``, and at the end."""
        return step % self.eval_steps == 0 or step == last_step

    @torch.no_grad()
    def measure(self) -> float:
        """Return the mean loss in nats per target token. Collective."""
        model = self.engine.model
        model.eval()
        loss_sum, num_targets = 0.0, 0
        for microbatch in self.microbatches():
            part = microbatch.to(self.device)
            logits = model(
                part.input_ids, document_ids=part.document_ids, position_ids=part.position_ids
            )
            loss_sum += self.loss(logits, part.target_ids).item()
            num_targets += part.num_targets
        model.train()
        total_loss, total_targets = self.host.sum(loss_sum, float(num_targets))
        return total_loss / total_targets
