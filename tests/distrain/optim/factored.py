"""A test-only optimizer with state of another shape: a matrix's second moment as a row and column.

As Adafactor's (arXiv 1804.04235, section 3). The mean over rows spans the shards of FSDP2, so an
element's update depends on elements of other ranks: nothing that ZeRO could step in flat pieces.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from distrain.config.optimizers import Kept, OptimizerConfig
from distrain.optim.groups import ParameterGroup
from distrain.optim.state import Scalar, zeros_like


class FactoredConfig(OptimizerConfig):
    """A factored second moment for matrices, a whole one for the rest."""

    kept: ClassVar[Kept] = Kept(
        {"second": 0}, other_tensors=("row", "column"), scalars=("step",), elementwise=False
    )

    name: Literal["factored"] = "factored"
    """Adafactor's second moment, and nothing else of it."""
    beta: float = 0.9
    """Decay rate of the moments."""


class Factored(Optimizer):
    def __init__(self, groups: list[ParameterGroup], lr: float, beta: float):
        super().__init__(cast(list[dict[str, Any]], groups), {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(factored_state(self, parameter))
                state["step"] += 1
                second = moment(state, parameter.grad.square() + 1e-30, group["beta"])
                correction = 1 - group["beta"] ** state["step"].item()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * parameter.grad / (second / correction).sqrt())


def moment(state: dict[str, Any], square: Tensor, beta: float) -> Tensor:
    """Update the moments and return their estimate of the mean square of each element."""
    if square.ndim != 2:
        second: Tensor = state["second"].mul_(beta).add_(square, alpha=1 - beta)
        return second
    rows, columns = square.shape
    row = state["row"].mul_(beta).add_(summed(square, 1) / columns, alpha=1 - beta)
    column = state["column"].mul_(beta).add_(summed(square, 0) / rows, alpha=1 - beta)
    estimate: Tensor = row.unsqueeze(1) * (column / (summed(row, 0) / rows)).unsqueeze(0)
    return estimate


def summed(tensor: Tensor, axis: int) -> Tensor:
    """Sum over an axis; where that goes over ranks, at once and for all of them."""
    total = tensor.sum(dim=axis)
    if not isinstance(total, DTensor):
        return total
    return total.redistribute(
        placements=[Replicate() if place.is_partial() else place for place in total.placements]
    )


def factored(groups: list[ParameterGroup], config: FactoredConfig) -> Factored:
    return Factored(groups, config.learning_rate, config.beta)


def factored_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    state: dict[str, Tensor | Scalar] = {"step": torch.zeros(())}
    zeros = zeros_like(parameter)
    if parameter.ndim != 2:
        return {**state, "second": zeros}
    return {**state, "row": summed(zeros, 1), "column": summed(zeros, 0)}
