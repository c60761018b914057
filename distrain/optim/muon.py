"""Muon: orthogonalized momentum for matrices (Jordan, 2024; arXiv 2502.16982).

Matrices of blocks are orthogonalized, whatever is around them is stepped by AdamW: embeddings and
output layer, whose rows belong to tokens, and vectors. Under FSDP2 each rank brings some matrices
together, so that the update is that of one process to the bit, and computed once.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import MuonConfig
from distrain.optim.adam import adam_state, may_fuse, step_adamw
from distrain.optim.elementwise import local, own_settings, with_state
from distrain.optim.groups import ParameterGroup, as_torch, is_weight_matrix
from distrain.optim.own import OwnOptimizer
from distrain.optim.shards import gather_round, is_cut_within, scatter_round, shard_group
from distrain.optim.state import Scalar, zeros_like

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: singular values end up between about 0.7 and 1.2, and soon."""
SMALLEST_NORM = 1e-7
OF_A_BLOCK = re.compile(r"\.\d+\.")
"""Blocks are numbered in every model's names: ``model.layers.0.mlp.up_proj.weight``."""


def muon(groups: list[ParameterGroup], config: MuonConfig) -> Optimizer:
    """Build it, with the groups cut into those for either rule."""
    cut = [part for group in groups for part in _by_rule(group)]
    return Muon(cut, config)


def muon_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make."""
    state = adam_state(optimizer, parameter)
    if any(
        parameter is other
        for group in optimizer.param_groups
        if group["orthogonal"]
        for other in group["params"]
    ):
        return {"step": state["step"], "momentum_buffer": zeros_like(parameter)}
    return state


class Muon(OwnOptimizer):
    """Steps groups with ``orthogonal`` set by Muon, the others by AdamW."""

    def __init__(self, groups: list[dict[str, Any]], config: MuonConfig) -> None:
        super().__init__(groups, own_settings(config) | {"fused": may_fuse(groups)})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Collective under FSDP2."""
        assert closure is None, "the loop computes the gradients"
        for group in self.param_groups:
            trained = with_state(self, group, muon_state)
            if trained and group["orthogonal"]:
                self._step_matrices(trained, group)
            elif trained:
                step_adamw(trained, self.state, group)

    def _step_matrices(self, trained: list[Tensor], group: dict[str, Any]) -> None:
        parameters = [local(parameter) for parameter in trained]
        gradients = [local(p.grad) for p in trained if p.grad is not None]
        buffers = [local(self.state[p]["momentum_buffer"]) for p in trained]
        torch._foreach_add_([self.state[p]["step"] for p in trained], 1)
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        if group["nesterov"]:
            torch._foreach_lerp_(gradients, buffers, group["momentum"])
        updates = gradients if group["nesterov"] else buffers
        updates = _orthogonalize(updates, trained, group)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        names = dict(zip(map(id, group["params"]), group["names"], strict=True))
        for parameter, whole, update in zip(parameters, trained, updates, strict=True):
            outputs, inputs = whole.shape[-2:]
            if names[id(whole)] in group["inputs_first"]:
                outputs, inputs = inputs, outputs
            rate = group["lr"] * adjustment(group["adjust_lr"], outputs, inputs)
            parameter.add_(update.to(parameter.dtype), alpha=-rate)


def adjustment(rule: str, rows: int, columns: int) -> float:
    """Return the factor of the learning rate of a matrix of (outputs, inputs)."""
    if rule == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def newton_schulz(matrices: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Bring singular values near 1, with the singular vectors kept.

    Args:
        matrices: One or several, shape (..., R, C).
        steps: Of the iteration X <- a X + (b A + c A A) X with A = X X^T.
        dtype: Of the iteration.

    Returns:
        The same shape, in ``dtype``.
    """
    a, b, c = COEFFICIENTS
    x = matrices.reshape(-1, *matrices.shape[-2:]).to(dtype)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x  # the smaller product
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).reshape(matrices.shape)


def _orthogonalize(
    updates: list[Tensor], trained: list[Tensor], group: dict[str, Any]
) -> list[Tensor]:
    def whole(update: Tensor) -> Tensor:
        return newton_schulz(update, group["ns_steps"], _dtype(update, group["ns_precision"]))

    done = {
        number: whole(update)
        for number, update in enumerate(updates)
        if not is_cut_within(trained[number])
    }
    cut = [number for number in range(len(updates)) if number not in done]
    if cut:
        shards = shard_group(trained[cut[0]])
        assert shards is not None
        for first in range(0, len(cut), shards.size()):
            numbers = cut[first : first + shards.size()]
            parameters = [trained[number] for number in numbers]
            mine = gather_round([updates[number] for number in numbers], parameters)
            parts = [torch.empty_like(updates[number]) for number in numbers]
            scatter_round(None if mine is None else whole(mine), parts, parameters)
            done.update(zip(numbers, parts, strict=True))
    return [done[number] for number in range(len(updates))]


def _dtype(update: Tensor, precision: str) -> torch.dtype:
    if update.dtype == torch.float64:
        return torch.float64
    fast = update.device.type == "cuda" and torch.cuda.is_bf16_supported()
    is_bf16 = precision == "bf16" or (precision == "auto" and fast)
    return torch.bfloat16 if is_bf16 else torch.float32


def _by_rule(group: ParameterGroup) -> Iterator[dict[str, Any]]:
    named = list(zip(group["names"], group["params"], strict=True))
    for orthogonal in (True, False):
        chosen = [
            (name, p)
            for name, p in named
            if (is_weight_matrix(name, p) and OF_A_BLOCK.search(name) is not None) == orthogonal
        ]
        if chosen:
            names, parameters = zip(*chosen, strict=True)
            (part,) = as_torch([group])
            own = {"names": list(names), "params": list(parameters), "orthogonal": orthogonal}
            yield part | own
