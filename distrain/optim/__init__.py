"""Layer 8: parameter groups, optimizers, learning-rate schedules."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from distrain.config.training import OptimizerConfig
from distrain.optim.adamw import adamw
from distrain.optim.groups import ParameterGroup, parameter_groups

OptimizerFactory = Callable[[list[ParameterGroup], OptimizerConfig], torch.optim.Optimizer]

OPTIMIZERS: dict[str, OptimizerFactory] = {"adamw": adamw}


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Build the optimizer that a recipe names, over the trainable parameters.

    Args:
        named_parameters: ``model.named_parameters()``, materialised, and after FSDP2 sharded it.
        config: The recipe's section.

    Raises:
        ValueError: Nothing is trainable.
    """
    groups = parameter_groups(named_parameters, config.weight_decay)
    return OPTIMIZERS[config.name](groups, config)
