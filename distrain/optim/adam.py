"""Adam (arXiv 1412.6980) and AdamW (arXiv 1711.05101), which decays apart from the moments."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam as functional_adam

from distrain.config.optimizers import AdamConfig, AdamWConfig
from distrain.optim.elementwise import ElementwiseOptimizer, local
from distrain.optim.groups import ParameterGroup
from distrain.optim.state import Scalar, zeros_like

FUSED_DEVICES = frozenset({"cpu", "cuda"})
ENTRIES = ("step", "exp_avg", "exp_avg_sq")


def adamw(groups: list[ParameterGroup], config: AdamWConfig) -> Optimizer:
    """Build it, as one kernel a group where the device has it."""
    update = partial(_update, decoupled=True)
    return ElementwiseOptimizer(groups, config, adam_state, update, fused=may_fuse(groups))


def adam(groups: list[ParameterGroup], config: AdamConfig) -> Optimizer:
    """Build it; decay is added to the gradient."""
    update = partial(_update, decoupled=False)
    return ElementwiseOptimizer(groups, config, adam_state, update, fused=may_fuse(groups))


def may_fuse(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether every device has the kernel: torch refuses ``fused`` where one has not."""
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return devices <= FUSED_DEVICES


def adam_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make, of either."""
    # The fused kernels read the step on the device; the others want it on the host.
    fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    device = parameter.device if fused else torch.device("cpu")
    return {
        "step": torch.zeros((), dtype=torch.float32, device=device),
        "exp_avg": zeros_like(parameter),
        "exp_avg_sq": zeros_like(parameter),
    }


def step_adamw(
    trained: list[Tensor], states: Mapping[Tensor, Mapping[str, Any]], group: Mapping[str, Any]
) -> None:
    """Make the AdamW step of some parameters, on what this rank holds of them."""
    entries = {
        entry: [local(states[parameter][entry]) for parameter in trained] for entry in ENTRIES
    }
    gradients = [local(p.grad) for p in trained if p.grad is not None]
    _update([local(p) for p in trained], gradients, entries, group, decoupled=True)


def _update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: Mapping[str, list[Tensor]],
    group: Mapping[str, Any],
    *,
    decoupled: bool,
) -> None:
    """Step as torch.optim.Adam does, or as AdamW: the same kernels, so the same bits.

    Not those classes: their ``step`` imports torch's compiler.
    """
    beta1, beta2 = group["betas"]
    is_fused = bool(group.get("fused"))
    functional_adam(
        parameters,
        gradients,
        state["exp_avg"],
        state["exp_avg_sq"],
        [],
        state["step"],
        fused=is_fused,
        foreach=not is_fused,
        decoupled_weight_decay=decoupled,
        amsgrad=False,
        maximize=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
    )
