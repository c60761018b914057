"""Lion: the sign of a momentum (arXiv 2302.06675, algorithm 2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import LionConfig
from distrain.optim.elementwise import ElementwiseOptimizer
from distrain.optim.groups import ParameterGroup
from distrain.optim.state import Scalar, zeros_like


def lion(groups: list[ParameterGroup], config: LionConfig) -> Optimizer:
    """Build it."""
    return ElementwiseOptimizer(groups, config, lion_state, _update)


def lion_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make."""
    del optimizer
    return {"exp_avg": zeros_like(parameter)}


def _update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: Mapping[str, list[Tensor]],
    group: Mapping[str, Any],
) -> None:
    """Step: c = beta1 m + (1 - beta1) g; p -= lr (sign(c) + decay p); m as c, with beta2."""
    beta1, beta2 = group["betas"]
    moments = state["exp_avg"]
    signs = torch._foreach_mul(moments, beta1)
    torch._foreach_add_(signs, gradients, alpha=1 - beta1)
    torch._foreach_sign_(signs)
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_add_(parameters, signs, alpha=-group["lr"])
    torch._foreach_mul_(moments, beta2)
    torch._foreach_add_(moments, gradients, alpha=1 - beta2)
