"""Parameters that a stage leaves as they are."""

from typing import TypeVar

from torch import nn

from distrain.config.training import TrainingConfig
from distrain.errors import RecipeError

AnyModel = TypeVar("AnyModel", bound=nn.Module)


def freeze(model: AnyModel, training: TrainingConfig) -> AnyModel:
    """Take the gradients from the parameters that the recipe freezes, in place.

    An engine asks no optimizer for a state of them, and reduces no gradient. A parameter with two
    names, such as a tied embedding, is called by its first.

    Raises:
        RecipeError: Nothing is left to train.
    """
    if not training.freezes:
        return model
    for name, parameter in model.named_parameters():
        if training.is_frozen(name):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError(
            "training.frozen_parameters",
            "patterns that match every parameter",
            "at least one that is trained",
            "Freeze less.",
        )
    return model
