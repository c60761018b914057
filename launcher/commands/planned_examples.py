"""``distrain data sample RECIPE``: what a stage of fine-tuning would train on, before any run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from distrain.config.reading.extends import RECIPE_SUFFIXES
from distrain.config.recipe import FinetuneStage, Recipe
from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder
from launcher import planning
from launcher.pinned_dates import with_pinned_dates
from launcher.resources import shipped_recipes
from launcher.run_files import runs_dir


def is_recipe(target: str) -> bool:
    """Whether a target is a recipe's file, or names a shipped one; the name of a run goes first."""
    path = Path(target)
    if path.suffix in RECIPE_SUFFIXES and path.is_file():
        return True
    is_run = "/" not in target and RunFolder(runs_dir() / target).resolved.is_file()
    return not is_run and any(recipe.name == target for recipe in shipped_recipes())


def planned_recipe(target: str, overrides: Sequence[str]) -> Recipe:
    """Return a recipe as a run that begins now would have it.

    Raises:
        NotFoundError: As of ``planning.load``.
        RecipeErrors: As of ``planning.load``.
    """
    return with_pinned_dates(planning.load(target, overrides).recipe, datetime.now(UTC).date())


def stage_to_show(target: str, recipe: Recipe) -> str:
    """Return the stage of fine-tuning of a recipe that has one.

    Raises:
        NotFoundError: It has none, or several.
    """
    names = [name for name, each in recipe.stages.items() if isinstance(each, FinetuneStage)]
    if len(names) == 1:
        return names[0]
    raise NotFoundError(
        target,
        f"{len(names)} stages of fine-tuning" if names else "no stage of fine-tuning",
        "one whose examples are shown",
        f"Choose with --stage: {', '.join(names)}."
        if names
        else "Name a run: of its prepare stage, documents are shown.",
    )
