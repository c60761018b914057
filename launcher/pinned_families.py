"""The settings of transformers' families outside the table, stated once for all of a run.

Those of the table are complete when a recipe is read. Of the others the installed release knows the
defaults, and another one may have others: a run goes by those that it began with.
"""

from collections.abc import Collection
from typing import TypeGuard

from distrain.config.models import ModelConfig, TransformersConfig
from distrain.config.recipe import Recipe, TrainStage
from launcher.model_counts import count_made_model


def with_pinned_families(recipe: Recipe, keep: Collection[str] = ()) -> Recipe:
    """State every setting of models that begin with random weights.

    Where transformers is not installed, as on some login nodes, what is written stays.

    Args:
        recipe: As written.
        keep: Stages whose model stays as it is.
    """
    stages = dict(recipe.stages)
    for name, stage in recipe.stages.items():
        if name in keep or not isinstance(stage, TrainStage) or not _is_outside(stage.model):
            continue
        counts = count_made_model(recipe, name)
        if counts is not None and counts.config is not None:
            model = stage.model.model_copy(update={"config": dict(counts.config)})
            stages[name] = stage.model_copy(update={"model": model})
    return recipe.model_copy(update={"stages": stages})


def with_families_of(old: Recipe, new: Recipe, begun: Collection[str]) -> Recipe:
    """Let stages that have begun go on with the settings that their run states.

    Args:
        old: The recipe of the run.
        new: Another one, as written: a setting that it does not state is that of the run, one that
            it states otherwise is a change.
        begun: Stages that have built on their model.
    """
    stages = dict(new.stages)
    for name, stage in old.stages.items():
        now = stages.get(name)
        if name not in begun or not isinstance(stage, TrainStage):
            continue
        if isinstance(now, TrainStage) and _contradicts_nothing(now.model, stage.model):
            stages[name] = now.model_copy(update={"model": stage.model})
    kept = [name for name, stage in stages.items() if stage is not new.stages[name]]
    return with_pinned_families(new.model_copy(update={"stages": stages}), kept)


def _is_outside(model: ModelConfig) -> TypeGuard[TransformersConfig]:
    return isinstance(model, TransformersConfig) and model.family is None


def _contradicts_nothing(written: ModelConfig, pinned: ModelConfig) -> bool:
    if not _is_outside(written) or not _is_outside(pinned):
        return False
    if written.model_copy(update={"config": pinned.config}) != pinned:
        return False
    return all(
        name in pinned.config and pinned.config[name] == value
        for name, value in written.config.items()
    )
