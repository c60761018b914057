"""GPUs asked for = processes started, in every script that is written."""

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from distrain.config.launch import SiteConfig
from distrain.config.reading.load import load_recipe
from distrain.errors import RecipeError
from distrain.runs.folder import RunFolder
from launcher.plan import Plan, make_plan, resolve_processes
from launcher.planning import plan_recipe, site_of
from tests.launcher.backends.slurm.job_scripts import (
    Case,
    complaints,
    drawn,
    read_script,
    scripts_of,
)
from tests.launcher.small_run import RECIPE, write_recipe

EVALUATE = "  evaluate: {kind: evaluate, needs: pretrain}"
ROOT = Path(__file__).parents[4]
REMEDY = re.compile(
    r"Set (launch\.processes_per_node=.*), or (training\.device=cpu), "
    r"or (exclusive|gpus_per_node): (\w+) in the site file if "
)


def ways_out(case: Case, error: RecipeError) -> list[tuple[Case, list[str]]]:
    """Return what each of the three remedies of a refusal makes of a case, with its overrides."""
    match = REMEDY.match(error.remedy)
    assert match is not None, error.remedy
    every, none, key, value = match.groups()
    site = case.site | {key: {"false": False}.get(value) if key == "exclusive" else int(value)}
    return [(case, every.split()), (case, [none]), (replace(case, site=site), [])]


def changed(case: Case, overrides: list[str]) -> Case:
    """Return a case as the overrides of a remedy change what its jobs should hold."""
    recipe = {**case.recipe, "launch": dict(case.launch)}
    for word in overrides:
        key, _, value = word.partition("=")
        if key.startswith("launch."):
            recipe["launch"][key.removeprefix("launch.")] = int(value)
        if key == "training.device":
            recipe["stages"] = {
                name: stage | ({"training": {"device": value}} if "training" in stage else {})
                for name, stage in case.recipe["stages"].items()
            }
    return replace(case, recipe=recipe)


@pytest.mark.parametrize("scripts", [100, pytest.param(1000, marks=pytest.mark.slurm)])
def test_as_many_gpus_are_asked_for_as_processes_are_started(tmp_path, scripts):
    found: list[str] = []
    read, refused = 0, 0
    for case in drawn(seed=1):
        if read >= scripts:
            break
        if case.is_a_mismatch:
            refused += 1
            with pytest.raises(RecipeError) as error:
                case.plan(tmp_path)
            plans = [
                (changed(other, overrides), other.plan(tmp_path, *overrides))
                for other, overrides in ways_out(case, error.value)
            ]
        else:
            plans = [(case, case.plan(tmp_path))]
        for planned, plan in plans:
            jobs = scripts_of(plan)
            read += len(jobs)
            found += [words for job in jobs for words in complaints(planned, job)]
    assert found == []
    assert refused >= scripts / 100


def by_the_rule_before(plan: Plan, site: SiteConfig) -> Plan:
    """All GPUs of a node for training, one for every other stage."""
    return replace(
        plan,
        stages=tuple(
            replace(
                stage,
                gpus_per_node=site.gpus_per_node if stage.layout else min(site.gpus_per_node, 1),
            )
            for stage in plan.stages
        ),
    )


def test_the_rule_before_fails_the_same_reading(tmp_path):
    wrong = 0
    for case in islice(drawn(seed=1), 30):
        try:
            plan = case.plan(tmp_path)
        except RecipeError:
            plan = unchecked(case, tmp_path)
        site = site_of(plan.recipe.launch)
        assert site is not None
        jobs = scripts_of(by_the_rule_before(plan, site))
        wrong += any(complaints(case, job) for job in jobs)
    assert wrong > 15, "of 30 recipes"


def unchecked(case: Case, folder: Path) -> Plan:
    """Plan as if the site did not matter."""
    loaded = load_recipe(folder / "recipe.yaml", [f"launch.site={folder / 'site.yaml'}"])
    launch = loaded.recipe.launch
    return make_plan(
        loaded.recipe, RunFolder(folder / "runs"), resolve_processes(launch, site_of(launch), 0)
    )


def test_the_line_of_the_readme_asks_for_as_many_gpus_as_processes(tmp_path):
    """On the example site, whose nodes have more GPUs than the recipe has processes."""
    site = ROOT / "slurm" / "sites" / "example.yaml"
    line = next(ln for ln in (ROOT / "README.md").read_text().splitlines() if " submit " in ln)
    overrides = [word for word in line.split() if word.startswith("launch.")]
    assert "launch.site=site.yaml" in overrides
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml", [*overrides, f"launch.site={site}"])
    plan = plan_recipe(recipe.recipe, RunFolder(tmp_path / "quickstart"))
    asked = {job.stage: read_script(job.text) for job in scripts_of(plan)}
    assert {name: (a.gpus, a.processes) for name, a in asked.items()} == {
        "prepare": (0, 1),
        "pretrain": (4, 4),
        "sft": (4, 4),
        "evaluate": (1, 1),
        "export": (0, 1),
    }


def gpus(folder: Path, site: SiteConfig, *overrides: str, processes: int = 2) -> dict[str, int]:
    """GPUs a node of each stage of a small recipe with an evaluation."""
    recipe = write_recipe(folder, RECIPE.replace("launch:", f"{EVALUATE}\nlaunch:"))
    loaded = load_recipe(recipe, ["launch.backend=slurm", *overrides])
    plan = make_plan(loaded.recipe, RunFolder(folder / "runs" / "small"), processes, site)
    return {stage.name: stage.gpus_per_node for stage in plan.stages}


def test_a_site_with_gpus_means_cuda_for_training_and_the_evaluation_and_nothing_else(tmp_path):
    site = SiteConfig(gpus_per_node=8)
    none = {"prepare": 0, "pretrain": 0, "evaluate": 0, "export": 0}
    assert gpus(tmp_path, site) == none | {"pretrain": 2, "evaluate": 1}
    assert gpus(tmp_path, site, "training.device=cpu") == none | {"evaluate": 1}
    assert gpus(tmp_path, SiteConfig()) == none
    assert gpus(tmp_path, SiteConfig(), "training.device=cuda") == none | {"pretrain": 2}


def test_a_mismatch_is_refused_with_three_ways_out_and_the_batch_is_changed_last(tmp_path):
    with pytest.raises(RecipeError) as refused:
        gpus(tmp_path, SiteConfig(gpus_per_node=4, exclusive=True), "launch.nodes=1")
    assert str(refused.value) == (
        "launch.processes_per_node: found 2 processes a node on GPUs (pretrain), where jobs get "
        "whole nodes of 4 GPUs; expected 4, or 4 GPUs would be held for 2 processes. Set "
        "launch.processes_per_node=4 pretrain.training.global_batch_size=4, or "
        "training.device=cpu, or exclusive: false in the site file if jobs may share a node."
    )
    nodes = ("launch.nodes=2", "training.global_batch_size=4")
    with pytest.raises(RecipeError, match=r"Set launch\.processes_per_node=4 launch\.nodes=1, or"):
        gpus(tmp_path, SiteConfig(gpus_per_node=4, exclusive=True), *nodes)
    with pytest.raises(
        RecipeError, match=r"at most 1, .* Set launch\.processes_per_node=1 launch\.nodes=4"
    ):
        gpus(tmp_path, SiteConfig(gpus_per_node=1), *nodes)


def test_processes_on_the_cpu_are_not_compared_with_the_gpus_of_a_node(tmp_path):
    site = SiteConfig(gpus_per_node=4, exclusive=True)
    assert gpus(tmp_path, site, "training.device=cpu")["pretrain"] == 0
