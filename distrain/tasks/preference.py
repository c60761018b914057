"""Preferences: a chosen and a rejected answer, and how far the model tells them apart (DPO).

A pair is one row of two documents, the chosen answer with its prompt and the rejected one with the
same: whatever cuts a batch into ranks and microbatches cannot part them.

Shape legend: P = pairs of a microbatch, G = groups of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrain.config.preference import PreferenceConfig
from distrain.config.tasks import IGNORE_INDEX, PREFERENCE, TASK_FORMS
from distrain.data.samples.loader import Microbatch
from distrain.tasks.task import TaskSums, forward_documents

Reference = Callable[[nn.Module, Microbatch], Tensor]
"""Log-probabilities of a microbatch's answers by the model as it was before the stage, shape
(P, 2): chosen, rejected. Without gradients."""


def preference_losses(ratios: Tensor, num_tokens: Tensor, config: PreferenceConfig) -> Tensor:
    """Compute the loss of each pair.

    Args:
        ratios: Log-probability of each answer less that by the reference, summed over its
            tokens: of the chosen and of the rejected one; shape (P, 2).
        num_tokens: Of each answer, shape (P, 2).
        config: Which loss; see there for the source of its formula.

    Returns:
        Shape (P,), of the type of ``ratios``.
    """
    if config.loss == "ipo":
        # Of sums, the square would grow with the length of the answers; the authors' own results
        # are of means, and so is what other trainers compute.
        means = ratios / num_tokens
        gaps = means[:, 0] - means[:, 1]
        return (gaps - 1 / (2 * config.beta)).square()
    margins = config.beta * (ratios[:, 0] - ratios[:, 1])
    if config.loss == "hinge":
        return F.relu(1 - margins)
    losses = -F.logsigmoid(margins)
    if not config.label_smoothing:
        return losses
    turned = -F.logsigmoid(-margins)
    return (1 - config.label_smoothing) * losses + config.label_smoothing * turned


def answer_logps(module: nn.Module, microbatch: Microbatch) -> Tensor:
    """Run a forward pass; returns log-probabilities of the answers, shape (P, 2).

    Of a microbatch without targets, a rank's pass for the others' sake, shape (0, 2).
    """
    sums = forward_documents(module, microbatch)
    if len(sums) != 2 * len(microbatch.input_ids):
        sums = sums[:0]
    return -sums.view(-1, 2)


def kept_reference(_: nn.Module, microbatch: Microbatch) -> Tensor:
    """Return what was computed before the first step, which lies in the rows."""
    assert microbatch.row_values is not None, "computed before the first step"
    return microbatch.row_values


@dataclass(frozen=True)
class PreferenceTask:
    """One forward pass over both answers; the denominator is the number of pairs.

    Args:
        config: Which loss.
        reference: What the model said before the stage.
    """

    config: PreferenceConfig = field(default_factory=PreferenceConfig)
    reference: Reference = kept_reference
    form = TASK_FORMS[PREFERENCE]

    def denominators(self, microbatch: Microbatch) -> list[float]:
        """Count the pairs of each group of rows; a row that stands in for none has no target."""
        has_target = (microbatch.target_ids != IGNORE_INDEX).any(1)
        return [float(part.sum()) for part in has_target.split(microbatch.groups)]

    def measure(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        """Sum the losses of each group of pairs, and what the rewards are."""
        # The reference first: what a pass for gradients keeps is not yet in memory then.
        reference = self.reference(module, microbatch)
        logps = answer_logps(module, microbatch)
        if not len(logps):
            return self._nothing(logps, len(microbatch.groups))
        ratios = logps - reference.to(logps.dtype)
        num_tokens = [count for count in microbatch.places_by_document if count]
        counts = ratios.new_tensor(num_tokens).view(-1, 2)
        losses = preference_losses(ratios, counts, self.config)
        figures = self._figures(ratios.detach(), logps.detach())

        def grouped(values: Tensor) -> Tensor:
            return torch.stack([part.sum() for part in values.split(microbatch.groups)])

        pairs = grouped(torch.ones_like(losses.detach()))
        others = {name: (grouped(values), pairs) for name, values in figures.items()}
        return TaskSums(grouped(losses), others)

    def _figures(self, ratios: Tensor, logps: Tensor) -> dict[str, Tensor]:
        rewards = self.config.beta * ratios
        margins = rewards[:, 0] - rewards[:, 1]
        return {
            "reward_chosen": rewards[:, 0],
            "reward_rejected": rewards[:, 1],
            "reward_margin": margins,
            # A model that is its reference tells nothing apart: no hit, and not a half.
            "reward_accuracy": (margins > 0).to(margins.dtype),
            "logp_chosen": logps[:, 0],
            "logp_rejected": logps[:, 1],
        }

    def _nothing(self, none: Tensor, num_groups: int) -> TaskSums:
        zeros = none.sum().expand(num_groups)
        none = zeros.detach()
        return TaskSums(zeros, {metric.name: (none, none) for metric in self.form.others})
