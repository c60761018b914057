"""Adagrad (Duchi et al., JMLR 12, 2011).

Our own: DeepSpeed puts a fresh one in the place of torch's, and torch's keeps a step that its
update does not need.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import AdagradConfig
from distrain.optim.elementwise import ElementwiseOptimizer, add_decay
from distrain.optim.groups import ParameterGroup
from distrain.optim.state import Scalar, zeros_like


def adagrad(groups: list[ParameterGroup], config: AdagradConfig) -> Optimizer:
    """Build it."""
    return ElementwiseOptimizer(groups, config, adagrad_state, _update)


def adagrad_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make."""
    start = optimizer.defaults["initial_accumulator_value"]
    return {"sum": zeros_like(parameter).fill_(start)}


def _update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: Mapping[str, list[Tensor]],
    group: Mapping[str, Any],
) -> None:
    """Step: v += g^2; p -= lr g / (sqrt(v) + eps)."""
    add_decay(gradients, parameters, group)
    torch._foreach_addcmul_(state["sum"], gradients, gradients)
    roots = torch._foreach_sqrt(state["sum"])
    torch._foreach_add_(roots, group["eps"])
    torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])
