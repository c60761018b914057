"""Notes on the experts of the models that a recipe trains: are they balanced, and by how much."""

from collections.abc import Iterator

from distrain.config.models import ModelConfig
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import Recipe
from launcher.estimate import stage_model


def note_balancing(recipe: Recipe) -> Iterator[Finding]:
    """Note each stage that trains on a balancing loss, and each that asks for one in vain."""
    for name in recipe.stages:
        model = stage_model(recipe, name)
        if model is not None and model.asks_for_balancing:
            setting = ("model", "config", "output_router_logits")
            yield Finding(name, setting, _balancing_text(model), is_note=True)


def _balancing_text(model: ModelConfig) -> str:
    coefficient = model.balancing_coefficient
    if coefficient == 0:
        return (
            f"model.config.output_router_logits has no effect: {model.family_name} has no "
            "balancing loss, or a coefficient of 0"
        )
    times = "the family's coefficient" if coefficient is None else f"{coefficient:g}"
    return (
        f"experts are balanced: {times} times their balancing loss is trained on beside the loss "
        "(model.config.output_router_logits)"
    )
