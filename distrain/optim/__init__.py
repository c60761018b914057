"""Layer 8: parameter groups, optimizers, learning-rate schedules."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from distrain.config.optimizers import OptimizerConfig
from distrain.optim.adafactor import adafactor, adafactor_state
from distrain.optim.adagrad import adagrad, adagrad_state
from distrain.optim.adam import adam, adam_state, adamw
from distrain.optim.adamw_8bit import adamw_8bit, adamw_8bit_state
from distrain.optim.groups import ParameterGroup, parameter_groups
from distrain.optim.lion import lion, lion_state
from distrain.optim.muon import muon, muon_state
from distrain.optim.rmsprop import rmsprop, rmsprop_state
from distrain.optim.sgd import sgd, sgd_state
from distrain.optim.state import CreateState, OptimizerState

OptimizerFactory = Callable[[list[ParameterGroup], Any], Optimizer]
"""(groups, its section of the recipe) -> optimizer; the factory may change a group's settings."""

OPTIMIZERS: dict[str, tuple[OptimizerFactory, CreateState]] = {
    "adamw": (adamw, adam_state),
    "adam": (adam, adam_state),
    "sgd": (sgd, sgd_state),
    "rmsprop": (rmsprop, rmsprop_state),
    "adagrad": (adagrad, adagrad_state),
    "lion": (lion, lion_state),
    "muon": (muon, muon_state),
    "adafactor": (adafactor, adafactor_state),
    "adamw_8bit": (adamw_8bit, adamw_8bit_state),
}
"""Name -> how it and its state are made; what it keeps is declared by its section of the schema."""


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    config: OptimizerConfig,
    has_inputs_first: Callable[[str], bool] | None = None,
) -> OptimizerState:
    """Build the optimizer that a recipe names, over the trainable parameters.

    Args:
        named_parameters: Under plain names, materialized, and after FSDP2 sharded them.
        config: The recipe's section.
        has_inputs_first: Of a name, whether the matrix is stored as (inputs, outputs); ``None``:
            none is. For an optimizer that ``tells_sides_apart``.

    Raises:
        ValueError: Nothing is trainable.
        RecipeError: A rule of ``optimizer.groups`` counts for no parameter, or the optimizer cannot
            run here.
    """
    groups = parameter_groups(named_parameters, config.weight_decay, config.groups)
    if has_inputs_first is not None:
        for group in groups:
            group["inputs_first"] = [name for name in group["names"] if has_inputs_first(name)]
    build, create = OPTIMIZERS[config.name]
    return OptimizerState(config.name, build(groups, config), config.keeps, create)
