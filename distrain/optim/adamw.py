"""AdamW (arXiv 1711.05101)."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import AdamWConfig
from distrain.optim.groups import ParameterGroup
from distrain.optim.state import Scalar, zeros_like

FUSED_DEVICES = frozenset({"cpu", "cuda"})


def adamw(groups: list[ParameterGroup], config: AdamWConfig) -> Optimizer:
    """Build torch's AdamW, as one kernel a group where the device has it."""
    # torch refuses ``fused`` outright where one parameter is on a device without it.
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(
        cast(list[dict[str, Any]], groups),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=devices <= FUSED_DEVICES,
    )


def adamw_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make."""
    # The fused kernels read the step on the device; the others want it on the host.
    fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    device = parameter.device if fused else torch.device("cpu")
    return {
        "step": torch.zeros((), dtype=torch.float32, device=device),
        "exp_avg": zeros_like(parameter),
        "exp_avg_sq": zeros_like(parameter),
    }
