"""The learning rate of adapters where a recipe states none: a multiple of full tuning's."""

from collections.abc import Mapping

from distrain.config.recipe import Recipe, SftStage

LORA_LR_RATIO = 10
"""The best rate of adapters over that of full tuning, whatever their rank ("LoRA Without Regret",
Schulman et al. 2025)."""
SETTING = "stages.{}.optimizer.learning_rate"


def with_adapter_rates(recipe: Recipe, origins: Mapping[str, str]) -> Recipe:
    """Raise the default rate of each stage that trains adapters; what is stated stays.

    Args:
        recipe: Every value is stated afterwards, and so is the rate in ``resolved.yaml``.
        origins: See ``LoadedRecipe``.
    """
    stages = dict(recipe.stages)
    for name, stage in recipe.stages.items():
        if _is_default(name, stage, origins):
            assert isinstance(stage, SftStage), "only such a stage trains adapters"
            # As decimal figures: 10 * 0.0003 is 0.0029999999999999996.
            rate = float(f"{stage.optimizer.learning_rate * LORA_LR_RATIO:.12g}")
            optimizer = stage.optimizer.model_copy(update={"learning_rate": rate})
            stages[name] = stage.model_copy(update={"optimizer": optimizer})
    return recipe.model_copy(update={"stages": stages})


def keep_older_rates(old: Recipe, new: Recipe, origins: Mapping[str, str]) -> Recipe:
    """Let a run folder from before there was such a default go on with the rate that it states.

    Args:
        old: The recipe of the folder.
        new: The one that it is to have.
        origins: See ``LoadedRecipe``; of ``new``.
    """
    stages = dict(new.stages)
    for name, stage in old.stages.items():
        now = new.stages.get(name)
        if now is None or not _is_default(name, now, origins) or not isinstance(stage, SftStage):
            continue
        assert isinstance(now, SftStage), "only such a stage trains adapters"
        if stage.lora is not None and stage.optimizer.name == now.optimizer.name:
            rate = {"learning_rate": stage.optimizer.learning_rate}
            optimizer = now.optimizer.model_copy(update=rate)
            stages[name] = now.model_copy(update={"optimizer": optimizer})
    return new.model_copy(update={"stages": stages})


def _is_default(name: str, stage: object, origins: Mapping[str, str]) -> bool:
    is_adapted = isinstance(stage, SftStage) and stage.lora is not None
    return is_adapted and origins.get(SETTING.format(name)) == "default"
