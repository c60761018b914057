"""Whether a recipe's own plan fits the model: what a rank leaves a part of, another layer takes."""

import re
from collections.abc import Iterator, Mapping

from torch import nn

from distrain.config.models.tensor_plan import PLAN_EXAMPLE, open_ends, unfitting_patterns
from distrain.errors import RecipeError
from distrain.models.causal_lm import CausalLM


def require_closed(model: CausalLM, plan: Mapping[str, str], is_whole: bool) -> None:
    """Refuse a plan under which layers would be given a part of what they take, or nothing is cut.

    Args:
        model: On the meta device or not.
        plan: A recipe's; those of families are known to fit.
        is_whole: Whether all of its layers are there.

    Raises:
        RecipeError: Likewise.
    """
    where, layers = "parallelism.tp_plan", list(linear_layers(model))
    names = [
        name for named in (model.named_modules(), model.named_parameters()) for name, _ in named
    ]
    lost = unfitting_patterns(plan, names) if is_whole else []
    if lost:
        known = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in layers)
        raise RecipeError(
            where,
            f"{' and '.join(lost)}, which no layer of the model is called",
            f"names such as {', '.join(known)}",
            f"Write these names in {where}, or remove it if the family has a plan of its own.",
        )
    for end in open_ends(plan, layers):
        raise RecipeError(
            where,
            end,
            "all linear layers of a module, those that read its input as colwise and the one "
            "that returns its output as rowwise",
            f"Name them all, as in {PLAN_EXAMPLE}, or none; replicate is for one that is to be "
            "whole.",
        )


def linear_layers(model: CausalLM) -> Iterator[str]:
    """Yield the names of the linear layers in a model's blocks; adapters belong to one."""
    for name, block in model.named_modules():
        if isinstance(block, model.block_classes):
            for below, layer in block.named_modules(prefix=name):
                is_layer = _is_linear(getattr(layer, "base_layer", layer))
                if is_layer and ".base_layer" not in below and ".lora_" not in below:
                    yield below


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
