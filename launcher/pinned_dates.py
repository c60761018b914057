"""The day that chat templates are told, stated once for all of a run.

A template that asks for the date would else lay out other texts after midnight than before.
"""

from datetime import date

from distrain.config.recipe import FinetuneStage, Recipe


def with_pinned_dates(recipe: Recipe, today: date, old: Recipe | None = None) -> Recipe:
    """State the day for each stage of fine-tuning; one that is stated stays.

    Args:
        recipe: As written.
        today: Of a stage that the run does not have yet.
        old: The recipe of the run, whose stages go on with their day. One that states none is of
            an older version, and goes on with what its records say.
    """
    stages = dict(recipe.stages)
    for name, stage in recipe.stages.items():
        if not isinstance(stage, FinetuneStage) or stage.data.template_date is not None:
            continue
        before = None if old is None else old.stages.get(name)
        day = before.data.template_date if isinstance(before, FinetuneStage) else today.isoformat()
        data = stage.data.model_copy(update={"template_date": day})
        stages[name] = stage.model_copy(update={"data": data})
    return recipe.model_copy(update={"stages": stages})
