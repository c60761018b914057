"""The state of torch's AdamW: made by its first step, where loading needs it before."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")


def create_state(optimizer: Optimizer, parameter: Tensor) -> None:
    """Make what the first step would make, if it was not made yet."""
    if "step" in optimizer.state[parameter]:
        return
    # The fused kernels read the step on the device; the others want it on the host.
    fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    device = parameter.device if fused else torch.device("cpu")
    optimizer.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=device)
    for moment in MOMENTS:
        # With the layout of the parameter, and a DTensor where it is one: as torch's first step
        # does.
        optimizer.state[parameter][moment] = torch.zeros_like(
            parameter, memory_format=torch.preserve_format
        ).detach()


def adam_steps(optimizer: Optimizer, parameters: Iterable[Tensor]) -> list[int]:
    """Read the step of each parameter; 0 before its first."""
    return [int(optimizer.state[p]["step"]) if optimizer.state[p] else 0 for p in parameters]


def set_step(optimizer: Optimizer, parameter: Tensor, step: int) -> None:
    """Write the step of one parameter, whose state exists."""
    optimizer.state[parameter]["step"].fill_(step)
