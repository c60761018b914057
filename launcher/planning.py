"""From the command line to a plan: which recipe, which site, how many processes here."""

import os
from collections.abc import Sequence
from pathlib import Path

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.reading.load import LoadedRecipe, load_recipe, load_site
from distrain.config.recipe import Recipe
from distrain.runs.folder import RunFolder
from distrain.runs.records import done_stages
from launcher.backends.backend import backend_of
from launcher.environment import gpu_names
from launcher.inputs.checks import check_inputs
from launcher.plan import Plan, make_plan, resolve_processes
from launcher.preflight import missing_paths
from launcher.resources import find_recipe
from launcher.run_files import as_in_folder, run_of

SITE_VARIABLE = "DISTRAIN_SITE"


def load(target: str, overrides: Sequence[str]) -> LoadedRecipe:
    """Load a recipe by its path or by the name of a shipped one, and look at the files it names.

    Raises:
        NotFoundError: There is no such recipe.
        RecipeErrors: All mistakes of the recipe; or, where it has none, of what its files say.
    """
    return check_inputs(load_recipe(find_recipe(target), overrides))


def load_to_start(target: str, overrides: Sequence[str]) -> LoadedRecipe:
    """As ``load``, without the files of stages that the run of that name has done.

    The files may have moved since: the same command must go on, or say that all is done.
    """
    loaded = load_recipe(find_recipe(target), overrides)
    return _check_what_is_left(loaded, run_of(loaded.recipe))


def load_to_resume(run: RunFolder, overrides: Sequence[str]) -> LoadedRecipe:
    """As ``load_to_start``, from the resolved recipe of a run."""
    return _check_what_is_left(as_in_folder(run, load_recipe(run.resolved, overrides)), run)


def _check_what_is_left(loaded: LoadedRecipe, run: RunFolder) -> LoadedRecipe:
    return check_inputs(loaded, done=done_stages(run, loaded.recipe.stages))


def unseen_files(recipe: Recipe) -> list[str]:
    """Say which files of a recipe are not on this machine, so that nothing was read of them."""
    return [
        f"{problem.where}: {problem.found}; it was not looked at"
        for problem in missing_paths(recipe)
    ]


def site_of(launch: LaunchConfig) -> SiteConfig | None:
    """Return the site file that a recipe names, or that ``$DISTRAIN_SITE`` does."""
    path = launch.site or os.environ.get(SITE_VARIABLE)
    return load_site(Path(path)) if path else None


def plan_recipe(recipe: Recipe, run: RunFolder) -> Plan:
    """Plan a recipe for where its ``launch`` section sends it."""
    launch = recipe.launch
    is_queued = backend_of(launch).is_queued
    site = (site_of(launch) or SiteConfig()) if is_queued else None
    asks_machine = launch.processes_per_node == "auto" and not is_queued
    gpus = len(gpu_names()) if asks_machine else 0
    return make_plan(recipe, run, resolve_processes(launch, site, gpus), site)


def script_text(plan: Plan) -> str:
    """Write what would be started, exactly: commands, commands per node, or sbatch scripts."""
    return backend_of(plan.recipe.launch).render(plan)
