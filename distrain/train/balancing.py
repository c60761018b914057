"""The balancing loss of a microbatch, over all ranks that read a part of it.

Shape legend: N = tokens of a microbatch on one rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from distrain.config.tasks import BALANCING_LOSS, IGNORE_INDEX
from distrain.data.samples.loader import Microbatch
from distrain.models.balancing import BalancingRule, RouterScores, RoutingSums, sum_routing
from distrain.parallel.context.stripes import stripes_of
from distrain.parallel.ranks import Ranks
from distrain.tasks.task import TaskSums


@dataclass(frozen=True)
class Balancing:
    """Adds the balancing loss to what a task measured while training.

    A microbatch on all ranks at the same time is what it is taken over. Within a step, it counts
    as much as the share of the trained metric's denominator that lies in it.

    Args:
        rule: Of the model.
        ranks: Of the run.
    """

    rule: BalancingRule
    ranks: Ranks

    def add_to(
        self,
        measured: TaskSums,
        forwards: Sequence[RouterScores],
        microbatch: Microbatch,
        denominator: float,
    ) -> TaskSums:
        """Add this rank's share of the loss, and the metric. Collective, once for all layers.

        Args:
            measured: By the task.
            forwards: What routers said in its forward passes.
            microbatch: What it was measured of, on the host.
            denominator: Of the trained metric, of this rank's part.
        """
        mask = counted_tokens(microbatch)
        stripes = stripes_of(self.ranks)
        if stripes is not None:
            mask = stripes.of_tokens(mask, *microbatch.input_ids.shape)
            # Of whole rows, which another rank has too.
            denominator *= self.ranks.counts_rows
        device = measured.trained.device
        if mask is not None:
            mask = mask.to(device, non_blocking=True)
        part = sum_routing(forwards, self.rule, mask)
        weight = torch.full_like(part.num_tokens, denominator)  # filled: a copy would wait
        counts, num_tokens, whole_weight = self._over_ranks(part, weight)
        share = part.share_of_loss(counts, num_tokens)
        loss = (whole_weight.to(share.dtype) * share).reshape(1)
        figure = loss.detach(), weight.reshape(1)
        return replace(
            measured,
            others={**measured.others, BALANCING_LOSS.name: figure},
            added=self.rule.coefficient * loss,
        )

    def _over_ranks(self, part: RoutingSums, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum up what must be known before the backward pass; the host does not wait for it."""
        totals = torch.cat([part.counts, part.num_tokens.reshape(1), weight.reshape(1)])
        if self.ranks.averaged_over > 1:
            dist.all_reduce(totals, group=self.ranks.positions_group)
        return totals[:-2], totals[-2], totals[-1]


def counted_tokens(microbatch: Microbatch) -> Tensor | None:
    """Return which tokens count, bool, shape (N,): those of documents with a target.

    Padding is a document without one. Where a pass ends behind the last target of its rows, only
    tokens up to the last target of their document count: more of them would be there or not by
    what lies in the other rows. ``None``: all.
    """
    starts = microbatch.cu_seqlens.numpy(force=True)
    is_target = microbatch.target_ids.numpy(force=True).reshape(-1) != IGNORE_INDEX
    before = np.cumsum(is_target) - is_target
    totals = np.append(before, is_target.sum())[starts]
    of_document = np.repeat(totals[1:], np.diff(starts))
    if microbatch.places is None:
        is_counted = of_document > np.repeat(totals[:-1], np.diff(starts))
    else:
        is_counted = of_document > before
    return None if is_counted.all() else torch.from_numpy(is_counted)
