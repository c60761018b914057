"""The load balancing loss of a mixture of experts, from the scores of its routers.

It is ``E * sum over e of f_e * P_e`` (arXiv 2101.03961, equations 4 to 6): f_e is how often a token
goes to expert e, P_e the mean probability that its router gives to e, over the tokens of all
layers. Even routing makes it the number of experts that a token goes to, the least there is.

A product of two means, so it is not the mean of the losses of parts of a batch. But f has no
gradient: once it is known over all parts, the loss is a sum over parts of what each has of P.

Shape legend: E = experts of a layer, N = tokens of a microbatch on one rank.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

RouterScores = tuple[Tensor, ...]
"""Of one forward pass: what the router of each layer gives to its softmax, shape (N, E)."""


@dataclass(frozen=True)
class BalancingRule:
    """How a model balances its experts.

    Args:
        experts_per_token: To which so many a token goes.
        coefficient: By which the balancing loss is multiplied before it is added to the loss.
    """

    experts_per_token: int
    coefficient: float


@dataclass(frozen=True)
class RoutingSums:
    """What a part of a batch adds to f and P.

    Args:
        counts: Tokens that went to each expert, shape (E,), float64, without gradients.
        probabilities: Sums of what each was given, shape (E,), float32 at least, with gradients.
        num_tokens: Of all layers; 0-dimensional, float64.
    """

    counts: Tensor
    probabilities: Tensor
    num_tokens: Tensor

    def share_of_loss(self, counts_E: Tensor, num_tokens: Tensor) -> Tensor:
        """Return what this part adds to the loss of a whole; 0-dimensional, with gradients.

        Args:
            counts_E: Of the whole.
            num_tokens: Of the whole; without any, the loss is 0.
        """
        factors_E = counts_E * len(counts_E) / num_tokens.clamp(min=1).square()
        return (factors_E.to(self.probabilities.dtype) * self.probabilities).sum()


def sum_routing(
    forwards: Sequence[RouterScores], rule: BalancingRule, mask_N: Tensor | None
) -> RoutingSums:
    """Sum up over the layers of one or several forward passes.

    Args:
        forwards: Their scores, all of as many tokens and experts.
        rule: Of the model.
        mask_N: Which tokens count, bool; ``None``: all.
    """
    layers = [scores.flatten(0, -2) for of_pass in forwards for scores in of_pass]
    first = layers[0]
    ones_N = first.new_ones(len(first)) if mask_N is None else mask_N
    ones_N = ones_N.double()
    ones = ones_N.repeat_interleave(rule.experts_per_token)
    counts_E = ones.new_zeros(first.shape[1])
    probabilities_E = counts_E.to(_exact(first))
    for scores_NE in layers:
        share_NE = scores_NE.softmax(-1, dtype=_exact(scores_NE))
        chosen = share_NE.detach().topk(rule.experts_per_token, dim=-1).indices
        # Atomic on a GPU, but of ones: in whatever order, the sum has the same bits.
        counts_E.scatter_add_(0, chosen.flatten(), ones)
        counted_NE = share_NE if mask_N is None else share_NE * mask_N.unsqueeze(1)
        probabilities_E = probabilities_E + counted_NE.sum(0)
    return RoutingSums(counts_E, probabilities_E, ones_N.sum() * len(layers))


def _exact(scores: Tensor) -> torch.dtype:
    return torch.promote_types(scores.dtype, torch.float32)


_open_records: list[list[RouterScores]] = []


@contextmanager
def recording_routing() -> Iterator[list[RouterScores]]:
    """Collect the scores of the forward passes of this process that gradients flow through.

    A record beside the losses, as engines wrap a model so that it returns one tensor.
    """
    record: list[RouterScores] = []
    _open_records.append(record)
    try:
        yield record
    finally:
        _open_records.pop()


def is_routing_recorded() -> bool:
    """Return whether anyone asks for the scores of the forward pass that begins."""
    return bool(_open_records) and torch.is_grad_enabled()


def record_routing(scores: RouterScores) -> None:
    """Hand the scores of a forward pass to whoever asks for them."""
    for record in _open_records:
        record.append(scores)
