"""Adafactor: the second moment of a matrix as a row and a column (arXiv 1804.04235).

transformers' update with its own schedule switched off. What spans the rows of a matrix is added
up over the shards of FSDP2, in three exchanges a step for all parameters.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import AdafactorConfig
from distrain.optim.elementwise import local, own_settings, with_state
from distrain.optim.groups import ParameterGroup, as_torch
from distrain.optim.own import OwnOptimizer
from distrain.optim.shards import cut_like, is_cut_within, same_everywhere, sum_over_shards
from distrain.optim.state import Scalar, zeros_like


def adafactor(groups: list[ParameterGroup], config: AdafactorConfig) -> Optimizer:
    """Build it."""
    return Adafactor(groups, config)


def adafactor_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make."""
    del optimizer
    if parameter.ndim < 2:
        return {"step": 0, "exp_avg_sq": zeros_like(parameter)}
    held, (*outer, rows, columns) = local(parameter), parameter.shape
    row = cut_like(parameter, held.new_zeros(held.shape[:-1]), (*outer, rows))
    column = held.new_zeros((*held.shape[:-2], columns))
    if is_cut_within(parameter):
        column = same_everywhere(parameter, column)
    else:
        column = cut_like(parameter, column, (*outer, columns))
    return {"step": 0, "exp_avg_sq_row": row, "exp_avg_sq_col": column}


class Adafactor(OwnOptimizer):
    """Steps the shards of this rank, with the sums of all."""

    def __init__(self, groups: list[ParameterGroup], config: AdafactorConfig) -> None:
        super().__init__(as_torch(groups), own_settings(config))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Collective under FSDP2."""
        assert closure is None, "the loop computes the gradients"
        for group in self.param_groups:
            trained = with_state(self, group, adafactor_state)
            for parameter in trained:
                self.state[parameter]["step"] += 1
            if trained:
                self._step_group(trained, group)

    def _step_group(self, trained: list[Tensor], group: dict[str, Any]) -> None:
        updates = self._scaled_gradients(trained, group)
        squares = [update.square().sum() for update in updates]
        sizes = [local(parameter).square().sum() for parameter in trained]
        sum_over_shards([*squares, *sizes], [*trained, *trained])
        for number, parameter in enumerate(trained):
            rms = (squares[number] / parameter.numel()).sqrt()
            rate: float | Tensor = group["lr"]
            if group["scale_parameter"]:
                rate = rate * (sizes[number] / parameter.numel()).sqrt().clamp(min=group["eps"][1])
            update = updates[number].mul_(rate / (rms / group["clip_threshold"]).clamp(min=1.0))
            held = local(parameter)
            if group["weight_decay"]:
                held.mul_(1 - group["weight_decay"] * rate)
            held.sub_(update)

    def _scaled_gradients(self, trained: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Divide each gradient by the root of its second moment, brought up to date.

        The moment of a matrix is estimated as row column / mean(row).
        """
        gradients = [local(p.grad) for p in trained if p.grad is not None]
        squares = [gradient.square().add_(group["eps"][0]) for gradient in gradients]
        keeps = [1 - self.state[p]["step"] ** -group["decay_rate"] for p in trained]
        columns = _means_over_rows(squares, trained)
        moments = list[tuple[Tensor, ...]]()
        for number, parameter in enumerate(trained):
            state, keep, square = self.state[parameter], keeps[number], squares[number]
            if parameter.ndim < 2:
                moments.append((_averaged(state["exp_avg_sq"], square, keep),))
                continue
            row = _averaged(state["exp_avg_sq_row"], square.mean(dim=-1), keep)
            moments.append((row, _averaged(state["exp_avg_sq_col"], columns[number], keep)))
        matrices = [number for number, parameter in enumerate(trained) if parameter.ndim >= 2]
        rows = [moments[number][0].unsqueeze(-1) for number in matrices]
        means = _means_over_rows(rows, [trained[number] for number in matrices])
        for number, mean in zip(matrices, means, strict=True):
            row, column = moments[number]
            root = (row / mean).rsqrt_().unsqueeze(-1) * column.unsqueeze(-2).rsqrt()
            gradients[number] = root.mul_(gradients[number])
        for number, moment in enumerate(moments):
            if len(moment) == 1:
                gradients[number] = moment[0].rsqrt().mul_(gradients[number])
        return gradients


def _averaged(state: Tensor, value: Tensor, keep: float) -> Tensor:
    return local(state).mul_(keep).add_(value, alpha=1 - keep)


def _means_over_rows(values: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
    """Average (..., R, X) over R, which shards may hold parts of. Vectors are left out.

    Returns:
        Shape (..., X) each; empty tensors for vectors.
    """
    sums = [
        value.sum(dim=-2) if parameter.ndim >= 2 else value.new_zeros(0)
        for value, parameter in zip(values, parameters, strict=True)
    ]
    cut = [number for number, parameter in enumerate(parameters) if is_cut_within(parameter)]
    sum_over_shards([sums[number] for number in cut], [parameters[number] for number in cut])
    return [
        total / parameter.shape[-2] if parameter.ndim >= 2 else total
        for total, parameter in zip(sums, parameters, strict=True)
    ]
