"""AdamW (arXiv 1711.05101)."""

from typing import Any, cast

import torch

from distrain.config.training import OptimizerConfig
from distrain.optim.groups import ParameterGroup

FUSED_DEVICES = frozenset({"cpu", "cuda"})


def adamw(groups: list[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
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
