"""Stochastic gradient descent, with momentum (Polyak, 1964) and Nesterov's look-ahead (1983)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import SgdConfig
from distrain.optim.elementwise import ElementwiseOptimizer, add_decay
from distrain.optim.groups import ParameterGroup
from distrain.optim.state import Scalar, zeros_like


def sgd(groups: list[ParameterGroup], config: SgdConfig) -> Optimizer:
    """Build it."""
    return ElementwiseOptimizer(groups, config, sgd_state, _update)


def sgd_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make."""
    has_momentum = optimizer.defaults["momentum"] > 0
    return {"momentum_buffer": zeros_like(parameter)} if has_momentum else {}


def _update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: Mapping[str, list[Tensor]],
    group: Mapping[str, Any],
) -> None:
    """Step: b = momentum b + g; p -= lr b, or with Nesterov p -= lr (g + momentum b)."""
    add_decay(gradients, parameters, group)
    updates = gradients
    if group["momentum"]:
        buffers = state["momentum_buffer"]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        if group["nesterov"]:
            torch._foreach_add_(updates, buffers, alpha=group["momentum"])
        else:
            updates = buffers
    torch._foreach_add_(parameters, updates, alpha=-group["lr"])
