"""The way of tokens to the ranks that hold their experts, and back: one all-to-all each.

A token and one expert that its router chose for it is a **pair**. Pairs travel one by one, as many
as there are: no expert has a capacity, none is dropped, and a rank may get none at all.

Shape legend: N = tokens of this rank, K = experts of a token, P = N * K = pairs that leave it, A =
pairs that arrive at its experts, E = experts of the layer, D = hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Routes:
    """Which pair goes where, in one pass through one layer.

    Args:
        order: The pairs, shape (P,), numbered row by row of (N, K), in the order of their experts.
        back: Where in that order each pair is, shape (P,).
        sent: How many go to each rank.
        arriving: How many come from each rank.
        experts: For which of this rank's experts each is that arrives, shape (A,).
        num_choices: K.
        group: The ranks that share the experts.
    """

    order: Tensor
    back: Tensor
    sent: list[int]
    arriving: list[int]
    experts: Tensor
    num_choices: int
    group: dist.ProcessGroup

    def to_experts(self, rows: Tensor) -> Tensor:
        """Send a row a pair, in the order of experts, and return those that arrive. Collective."""
        return _exchange(rows, self.sent, self.arriving, self.group)

    def to_tokens(self, rows: Tensor) -> Tensor:
        """Send back what arrived, and return a row a pair, token by token. Collective."""
        return _exchange(rows, self.arriving, self.sent, self.group).index_select(0, self.back)


def plan_routes(index: Tensor, num_experts: int, group: dist.ProcessGroup) -> Routes:
    """Tell the owners of experts how many pairs come. Collective; the host waits for the device.

    Args:
        index: Numbers of the experts of each token, shape (N, K).
        num_experts: E; each rank of the group holds as many of them, in order.
        group: Of the ranks that share them.
    """
    chosen = index.flatten()
    order = chosen.argsort(stable=True)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    ours = torch.zeros(num_experts, dtype=torch.int64, device=order.device)
    ours.scatter_add_(0, chosen.long(), torch.ones_like(order))
    theirs = torch.empty_like(ours)
    dist.all_to_all_single(theirs, ours, group=group)
    # A row a rank: what we have for its experts, and what it has for ours.
    by_rank = torch.stack([ours, theirs]).view(2, group.size(), -1)
    # All-to-all takes its sizes from the host, which therefore waits here, once a layer and pass.
    sent, arriving = by_rank.sum(2).tolist()
    local = torch.arange(by_rank.shape[2], device=order.device).repeat(group.size())
    experts = local.repeat_interleave(theirs, output_size=sum(arriving))
    return Routes(order, back, sent, arriving, experts, index.shape[1], group)


def send(routes: Routes, hidden: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Bring pairs to their experts, each with the weight that its router gave to it. Collective.

    Args:
        routes: Of the pass.
        hidden: Of this rank's tokens, shape (N, D).
        weights: Shape (N, K).

    Returns:
        Hidden states (A, D), and weights (A, 1), as many as arrive at this rank.
    """
    arrived, their_weights = _Send.apply(routes, hidden, weights)  # type: ignore[no-untyped-call]
    return arrived, their_weights


def collect(routes: Routes, output: Tensor) -> Tensor:
    """Bring what experts made of their pairs back, and sum it up by tokens. Collective.

    Args:
        routes: Of the pass.
        output: Shape (A, D).

    Returns:
        Shape (N, D).
    """
    sums: Tensor = _Collect.apply(routes, output)  # type: ignore[no-untyped-call]
    return sums


class _Send(torch.autograd.Function):
    """Adjoint of ``_Collect``; both tensors in one node, so that every rank has one order."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        routes: Routes,
        hidden: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.routes = routes
        by_expert = weights.reshape(-1, 1).index_select(0, routes.order)
        return _spread(routes, hidden), routes.to_experts(by_expert)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        of_hidden: Tensor,
        of_weights: Tensor,
    ) -> tuple[None, Tensor, Tensor]:
        of_choices = ctx.routes.to_tokens(of_weights).view(-1, ctx.routes.num_choices)
        return None, _gather(ctx.routes, of_hidden), of_choices


class _Collect(torch.autograd.Function):
    """Adjoint of ``_Send``."""

    @staticmethod
    def forward(ctx: Any, routes: Routes, output: Tensor) -> Tensor:  # noqa: ANN401
        ctx.routes = routes
        return _gather(routes, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401
        return None, _spread(ctx.routes, of_sums)


def _spread(routes: Routes, rows: Tensor) -> Tensor:
    return routes.to_experts(rows.index_select(0, routes.order // routes.num_choices))


def _gather(routes: Routes, rows: Tensor) -> Tensor:
    # Summed along an axis, and not added up row by row, which has no fixed order on a GPU.
    pairs = routes.to_tokens(rows)
    return pairs.view(-1, routes.num_choices, pairs.shape[1]).sum(1)


def _exchange(
    rows: Tensor, sent: list[int], arriving: list[int], group: dist.ProcessGroup
) -> Tensor:
    received = rows.new_empty(sum(arriving), *rows.shape[1:])
    dist.all_to_all_single(received, rows.contiguous(), arriving, sent, group=group)
    return received
