"""RMSprop (Hinton, lecture 6e of Neural Networks for Machine Learning, 2012)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import RmspropConfig
from distrain.optim.elementwise import ElementwiseOptimizer, add_decay
from distrain.optim.groups import ParameterGroup
from distrain.optim.state import Scalar, zeros_like


def rmsprop(groups: list[ParameterGroup], config: RmspropConfig) -> Optimizer:
    """Build it."""
    return ElementwiseOptimizer(groups, config, rmsprop_state, _update)


def rmsprop_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make."""
    state: dict[str, Tensor | Scalar] = {"square_avg": zeros_like(parameter)}
    if optimizer.defaults["centered"]:
        state["grad_avg"] = zeros_like(parameter)
    if optimizer.defaults["momentum"]:
        state["momentum_buffer"] = zeros_like(parameter)
    return state


def _update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: Mapping[str, list[Tensor]],
    group: Mapping[str, Any],
) -> None:
    """Step: v = alpha v + (1 - alpha) g^2; p -= lr g / (sqrt(v) + eps), in torch's order.

    Centered, v is less the square of the mean gradient. With momentum, b = momentum b + g / (...)
    and p -= lr b.
    """
    add_decay(gradients, parameters, group)
    alpha, squares = group["alpha"], state["square_avg"]
    torch._foreach_mul_(squares, alpha)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - alpha)
    if group["centered"]:
        means = state["grad_avg"]
        torch._foreach_lerp_(means, gradients, 1 - alpha)
        roots = torch._foreach_addcmul(squares, means, means, value=-1)
        torch._foreach_sqrt_(roots)
    else:
        roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, group["eps"])
    if group["momentum"]:
        buffers = state["momentum_buffer"]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_addcdiv_(buffers, gradients, roots)
        torch._foreach_add_(parameters, buffers, alpha=-group["lr"])
    else:
        torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])
