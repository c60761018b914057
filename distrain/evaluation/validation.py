"""Validation: the mean loss over a fixed set of samples, the same whatever the number of ranks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distrain.data.samples.datasets import IGNORE_INDEX
from distrain.data.samples.held_out import HeldOut, MeasuredPart
from distrain.parallel.collectives import HostGroup
from distrain.parallel.engine import Engine

SummedLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits, target_ids) -> sum over target tokens, in nats."""


@dataclass(frozen=True)
class Scores:
    """What one validation found, in nats per target token.

    Args:
        loss: Mean over all targets.
        by_source: Over those of each source; without sources of which nothing was measured.
    """

    loss: float
    by_source: Mapping[str, float]


@dataclass(frozen=True)
class Validation:
    """A set of samples and when to measure them.

    Args:
        engine: What runs the forward pass.
        host: Agreement between ranks.
        loss: Layer 6.
        held_out: The samples.
        micro_batch_size: Samples of one forward pass.
        eval_steps: Steps between two measurements.
        device: Where the microbatches go.
    """

    engine: Engine
    host: HostGroup
    loss: SummedLoss
    held_out: HeldOut
    micro_batch_size: int
    eval_steps: int
    device: torch.device

    def is_due(self, step: int, last_step: int) -> bool:
        """Return whether to measure after ``step`` steps: every ``eval_steps``, and at the end."""
        return step % self.eval_steps == 0 or step == last_step

    def parts(self) -> Iterator[MeasuredPart]:
        """Yield this rank's share: as many parts as on every rank, for a pass may be collective."""
        return self.held_out.parts(
            micro_batch_size=self.micro_batch_size,
            dp_rank=self.engine.dp_rank,
            dp_size=self.engine.dp_size,
        )

    @torch.no_grad()
    def measure(self) -> Scores:
        """Measure all of them. Collective."""
        model = self.engine.model
        model.eval()
        sources = list(self.held_out.choice.counts)
        loss_sums, num_targets = dict.fromkeys(sources, 0.0), dict.fromkeys(sources, 0)
        for measured in self.parts():
            part = measured.microbatch.to(self.device)
            logits = model(
                part.input_ids, document_ids=part.document_ids, position_ids=part.position_ids
            )
            for source, rows in measured.rows.items():
                targets = part.target_ids[rows]
                loss_sums[source] += self.loss(logits[rows], targets).item()
                num_targets[source] += int((targets != IGNORE_INDEX).sum())
        model.train()
        totals = self.host.sum(*loss_sums.values(), *map(float, num_targets.values()))
        losses, counts = totals[: len(sources)], totals[len(sources) :]
        by_source = zip(sources, losses, counts, strict=True)
        return Scores(
            sum(losses) / sum(counts),
            {source: loss / count for source, loss, count in by_source if count},
        )
