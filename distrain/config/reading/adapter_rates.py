"""The learning rate of adapters, and of preferences, where a recipe states none."""

from collections.abc import Mapping

from distrain.config.recipe import FinetuneStage, PreferenceStage, Recipe

LORA_LR_RATIO = 10
"""The best rate of adapters over that of full tuning, whatever their rank ("LoRA Without Regret",
Schulman et al. 2025)."""
PREFERENCE_LR_RATIO = 1 / 300
"""The rate of preferences over that of other training: 1e-6 where that is 3e-4. DPO is trained with
5e-7 in arXiv 2310.16944, and with 1e-6 by other trainers' default."""
SETTING = "stages.{}.optimizer.learning_rate"


def with_adapter_rates(recipe: Recipe, origins: Mapping[str, str]) -> Recipe:
    """Fit the default rate of each stage of fine-tuning to what it trains; what is stated stays.

    Args:
        recipe: Every value is stated afterwards, and so is the rate in ``resolved.yaml``.
        origins: See ``LoadedRecipe``.
    """
    stages = dict(recipe.stages)
    for name, stage in recipe.stages.items():
        if isinstance(stage, FinetuneStage) and _is_default(name, origins):
            # As decimal figures: 10 * 0.0003 is 0.0029999999999999996.
            rate = float(f"{stage.optimizer.learning_rate * _factor(stage):.12g}")
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
        if not (isinstance(now, FinetuneStage) and isinstance(stage, FinetuneStage)):
            continue
        if now.lora is None or not _is_default(name, origins):
            continue
        if stage.lora is not None and stage.optimizer.name == now.optimizer.name:
            rate = {"learning_rate": stage.optimizer.learning_rate}
            optimizer = now.optimizer.model_copy(update=rate)
            stages[name] = now.model_copy(update={"optimizer": optimizer})
    return new.model_copy(update={"stages": stages})


def _factor(stage: FinetuneStage) -> float:
    by_kind = PREFERENCE_LR_RATIO if isinstance(stage, PreferenceStage) else 1
    return by_kind if stage.lora is None else by_kind * LORA_LR_RATIO


def _is_default(name: str, origins: Mapping[str, str]) -> bool:
    return origins.get(SETTING.format(name)) == "default"
