"""Layer 8: parameter groups, optimizers, learning-rate schedules."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from distrain.config.optimizers import OptimizerConfig
from distrain.optim.adamw import adamw, adamw_state
from distrain.optim.groups import ParameterGroup, parameter_groups
from distrain.optim.state import CreateState, OptimizerState

OptimizerFactory = Callable[[list[ParameterGroup], Any], Optimizer]
"""(groups, its section of the recipe) -> optimizer; the factory may change a group's settings."""

OPTIMIZERS: dict[str, tuple[OptimizerFactory, CreateState]] = {"adamw": (adamw, adamw_state)}
"""Name -> how it and its state are made; what it keeps is declared by its section of the schema."""


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> OptimizerState:
    """Build the optimizer that a recipe names, over the trainable parameters.

    Args:
        named_parameters: ``model.named_parameters()``, materialised, and after FSDP2 sharded it.
        config: The recipe's section.

    Raises:
        ValueError: Nothing is trainable.
    """
    groups = parameter_groups(named_parameters, config.weight_decay)
    build, create = OPTIMIZERS[config.name]
    return OptimizerState(config.name, build(groups, config), config.kept, create)
