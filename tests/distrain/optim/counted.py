"""A test-only optimizer, elementwise: a momentum and a count, without which no step is the same."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import Kept, OptimizerConfig
from distrain.optim.groups import ParameterGroup
from distrain.optim.state import Scalar, zeros_like


class CountedConfig(OptimizerConfig):
    """Momentum that averages all gradients so far."""

    kept: ClassVar[Kept] = Kept({"momentum": 4}, scalars=("count",))

    name: Literal["counted"] = "counted"
    """A step of the average, shorter from count to count."""
    power: float = 0.25
    """Of the count, by which steps are divided."""


class Counted(Optimizer):
    def __init__(self, groups: list[ParameterGroup], lr: float, power: float):
        super().__init__(cast(list[dict[str, Any]], groups), {"lr": lr, "power": power})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(counted_state(self, parameter))
                state["count"] += 1
                momentum, count = state["momentum"], state["count"]
                momentum.mul_(1 - 1 / count).add_(parameter.grad, alpha=1 / count)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(momentum, alpha=-group["lr"] / count ** group["power"])


def counted(groups: list[ParameterGroup], config: CountedConfig) -> Counted:
    """Norms and biases move at half the rate."""
    slower = [
        group if group["weight_decay"] else ParameterGroup(**{**group, "lr_ratio": 0.5})
        for group in groups
    ]
    return Counted(slower, config.learning_rate, config.power)


def counted_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    return {"momentum": zeros_like(parameter), "count": 0}
