"""The base of optimizers that are written here and treat every element alike."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import OptimizerConfig
from distrain.dtensor import is_dtensor
from distrain.optim.groups import ParameterGroup, as_torch
from distrain.optim.own import OwnOptimizer
from distrain.optim.state import CreateState

Update = Callable[[list[Tensor], list[Tensor], Mapping[str, list[Tensor]], Mapping[str, Any]], None]
"""(parameters, gradients, entry -> state of each, settings of the group) -> None; in place.

The gradients may be written to as well.
"""


class ElementwiseOptimizer(OwnOptimizer):
    """Steps the memory of this rank, whole parameters or their shards, a group at a time.

    An operation runs over all tensors of a group at once, and none goes through DTensor, which
    dispatches each on each parameter in Python.

    Args:
        groups: What is trained.
        config: Of every group.
        create: Makes the state of one parameter.
        update: The step itself.
        fused: Of each group's settings: whether torch's kernel for it runs, where there is one.
    """

    def __init__(
        self,
        groups: list[ParameterGroup],
        config: OptimizerConfig,
        create: CreateState,
        update: Update,
        *,
        fused: bool = False,
    ) -> None:
        super().__init__(as_torch(groups), own_settings(config) | {"fused": fused})
        self._create_state = create
        self._update = update

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop computes the gradients"
        for group in self.param_groups:
            trained = with_state(self, group, self._create_state)
            states = [self.state[parameter] for parameter in trained]
            if trained:
                entries = {name: [local(state[name]) for state in states] for name in states[0]}
                gradients = [local(p.grad) for p in trained if p.grad is not None]
                self._update([local(p) for p in trained], gradients, entries, group)


def with_state(optimizer: Optimizer, group: Mapping[str, Any], create: CreateState) -> list[Tensor]:
    """Return the parameters of a group that have a gradient, each with its state made."""
    trained = [parameter for parameter in group["params"] if parameter.grad is not None]
    for parameter in trained:
        if not optimizer.state[parameter]:
            optimizer.state[parameter].update(create(optimizer, parameter))
    return trained


def own_settings(config: OptimizerConfig) -> dict[str, Any]:
    """Return the settings that an optimizer has and others have not, and ``lr``."""
    shared = set(OptimizerConfig.model_fields)
    return {"lr": config.learning_rate} | config.model_dump(exclude=shared)


def local(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor, without a copy."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def add_decay(gradients: list[Tensor], parameters: list[Tensor], group: Mapping[str, Any]) -> None:
    """Add weight decay to gradients, in place: the L2 penalty's gradient."""
    if group["weight_decay"]:
        torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
