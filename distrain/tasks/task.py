"""What a model is trained for: how a microbatch becomes sums, and which of them is trained on.

Shape legend: G = groups of rows of a microbatch, one while training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from distrain.config.tasks import TaskForm
from distrain.data.samples.loader import Microbatch
from distrain.models.attention import DocumentLayout


@dataclass(frozen=True)
class TaskSums:
    """What one microbatch adds to the metrics of a batch or a validation.

    Args:
        trained: Numerator of the trained metric, shape (G,), with gradients. Its denominator is
            ``Task.denominators``.
        others: Of each other metric numerator and denominator, each of shape (G,), without
            gradients.
        added: What is made smaller besides, and is no part of the trained metric: of shape (G,),
            with gradients, to be divided by the same denominator.
    """

    trained: Tensor
    others: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    added: Tensor | None = None

    @property
    def objective(self) -> Tensor:
        """What the backward pass begins with, before it is scaled; shape (G,)."""
        return self.trained if self.added is None else self.trained + self.added

    def stacked(self, form: TaskForm, *, with_denominators: bool = True) -> Tensor:
        """Return all sums in one tensor without gradients, shape (G, ``form.num_sums``).

        Args:
            form: Of the task.
            with_denominators: False: zeros in the place of those of other metrics. They are counted
                of whole rows, and another rank, which measured other columns of these, has them.
        """
        trained = self.trained.detach()
        if not form.others:
            return trained.unsqueeze(1)
        pairs = [self.others[metric.name] for metric in form.others]
        columns = [trained]
        for over, under in pairs:
            columns += [over.detach(), under if with_denominators else torch.zeros_like(under)]
        return torch.stack([column.double() for column in columns], dim=1)


def means(form: TaskForm, denominator: float, sums: Sequence[float]) -> dict[str, float]:
    """Divide what was summed up over microbatches and ranks; by name, the trained metric first.

    Args:
        form: Of the task.
        denominator: Of the trained metric.
        sums: One row of ``TaskSums.stacked``, summed up.

    Returns:
        NaN for a metric that nothing was measured of; never so for the trained one.
    """
    trained, *rest = sums
    pairs = zip(form.others, rest[::2], rest[1::2], strict=True)
    others = {metric.name: over / under if under else math.nan for metric, over, under in pairs}
    return {form.trained.name: trained / denominator} | others


class Task(Protocol):
    """An objective. It holds no state and draws nothing but what dropout draws.

    A metric is the sum of its numerators over all microbatches and ranks divided by the sum of its
    denominators: exact, however the batch was cut.
    """

    @property
    def form(self) -> TaskForm:
        """What the rest of distrain knows of it."""

    def denominators(self, microbatch: Microbatch) -> Sequence[float]:
        """Say by what the trained sum of each group of rows is to be divided.

        Of the batch alone, before any forward pass: the backward pass is scaled by it. Asked where
        the batch was made, so no device is waited for.
        """

    def measure(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        """Layers 4 to 6: run the forward passes, and take the sums.

        The backward pass, if any, follows once. Several forward passes may come before it, each
        through ``module`` as the engine wrapped it; those that gradients flow through use the same
        parameters. All ranks make equally many. Of a module that is not in training, what only
        validations measure is among the others, but for ``BITS_PER_BYTE``, which follows.
        """


def forward_targets(
    module: nn.Module,
    microbatch: Microbatch,
    rows: Sequence[int] | None = None,
    *,
    with_hits: bool = False,
) -> Tensor:
    """Run a forward pass up to the losses; see ``CausalLM.forward`` for what comes out."""
    # Sums only: losses one by one are asked for by position, and go by all of them.
    if rows is None or microbatch.places is None:
        return _forward(module, microbatch, rows, None, with_hits=with_hits)
    groups = microbatch.places_by_group()
    return _forward(module, microbatch, groups, microbatch.places, with_hits=with_hits)


def forward_documents(module: nn.Module, microbatch: Microbatch) -> Tensor:
    """Run a forward pass up to the losses, summed over each document that has a target.

    Of a microbatch that computes only what targets need, which knows where these are.

    Returns:
        Cross-entropy in nats, which is minus the document's log-probability; shape (documents with
        targets,). Of one without any target, a single sum of nothing.
    """
    assert microbatch.places is not None, "where the targets are is known"
    counts = [count for count in microbatch.places_by_document if count]
    return _forward(module, microbatch, counts, microbatch.places)


def _forward(
    module: nn.Module,
    microbatch: Microbatch,
    rows: Sequence[int] | None,
    places: Tensor | None,
    *,
    with_hits: bool = False,
) -> Tensor:
    losses: Tensor = module(
        microbatch.input_ids,
        target_ids=microbatch.target_ids,
        rows=rows,
        places=places,
        with_hits=with_hits,
        documents=documents_of(microbatch),
    )
    return losses


def documents_of(microbatch: Microbatch) -> DocumentLayout:
    """Say which documents lie in its rows."""
    return DocumentLayout(
        microbatch.cu_seqlens, microbatch.position_ids, microbatch.document_lengths
    )
