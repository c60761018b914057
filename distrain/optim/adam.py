"""Adam (arXiv 1412.6980) and AdamW (arXiv 1711.05101), which decays apart from the moments."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw as functional_adamw

from distrain.config.optimizers import AdamConfig, AdamWConfig
from distrain.optim.elementwise import local
from distrain.optim.groups import ParameterGroup, as_torch
from distrain.optim.state import Scalar, zeros_like

FUSED_DEVICES = frozenset({"cpu", "cuda"})


def adamw(groups: list[ParameterGroup], config: AdamWConfig) -> Optimizer:
    """Build torch's AdamW, as one kernel a group where the device has it."""
    return torch.optim.AdamW(
        as_torch(groups),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=may_fuse(groups),
    )


def adam(groups: list[ParameterGroup], config: AdamConfig) -> Optimizer:
    """Build torch's Adam, which adds decay to the gradient."""
    return torch.optim.Adam(
        as_torch(groups),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=may_fuse(groups),
    )


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
    """Make torch's AdamW step of some parameters, on what this rank holds of them."""
    functional_adamw(
        [local(parameter) for parameter in trained],
        [local(p.grad) for p in trained if p.grad is not None],
        [local(states[p]["exp_avg"]) for p in trained],
        [local(states[p]["exp_avg_sq"]) for p in trained],
        [],
        [states[p]["step"] for p in trained],
        fused=bool(group.get("fused")),
        foreach=not group.get("fused"),
        amsgrad=False,
        maximize=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
    )
