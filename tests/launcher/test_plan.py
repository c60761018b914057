import itertools
import json

import pytest

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.reading.load import RecipeErrors, load_recipe
from distrain.errors import NotFoundError, RecipeError
from distrain.runs.folder import RunFolder
from distrain.runs.progress_page import WATCHDOG
from launcher.backends.local import stage_orders
from launcher.plan import (
    make_plan,
    resolve_processes,
    select_stages,
    stage_argv,
    stage_env,
    starting_argv,
)
from tests.launcher.small_run import load_small, write_recipe


def plan_of(tmp_path, *overrides, processes=1):
    loaded = load_small(tmp_path, *overrides)
    return make_plan(loaded.recipe, RunFolder(tmp_path / "runs" / "small"), processes)


def option(argv, name):
    return next(word.partition("=")[2] for word in argv if word.startswith(f"{name}="))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stage_that_trains_is_forked_and_another_one_is_the_process_itself(tmp_path, processes):
    plan = plan_of(tmp_path, processes=processes)
    root = str(plan.run.root)
    prepare, pretrain = (starting_argv(stage, plan.run, python="py") for stage in plan.stages[:2])
    assert prepare == ["py", "-m", "distrain", "stage", root, "prepare"]
    forked = ["py", "-m", "distrain.fork_server", root, "pretrain", f"--ranks={processes}"]
    assert pretrain == forked
    cold = stage_orders(plan.run, plan.stages[1], "py").cold_command
    assert cold == stage_argv(plan.stages[1], plan.run, python="py")
    assert cold == ["py", "-m", "distrain", "stage", root, "pretrain"]


def test_only_training_stages_get_several_processes(tmp_path):
    plan = plan_of(tmp_path, processes=2)
    assert [(s.name, s.world_size) for s in plan.stages] == [
        ("prepare", 1),
        ("pretrain", 2),
        ("export", 1),
    ]


@pytest.mark.parametrize(
    ("nodes", "processes", "strategy"),
    list(itertools.product((1, 2, 3), (1, 2, 4), ("auto", "ddp", "fsdp", "deepspeed"))),
)
def test_processes_ranks_and_degrees_agree(tmp_path, nodes, processes, strategy):
    plan = plan_of(
        tmp_path,
        "launch.backend=slurm",
        f"launch.nodes={nodes}",
        f"launch.processes_per_node={processes}",
        f"parallelism.strategy={strategy}",
        "training.global_batch_size=48",
        processes=processes,
    )
    stage = plan.stages[1]
    argv = starting_argv(stage, plan.run, python="py")
    assert stage.layout is not None
    assert stage.accumulation is not None
    started = int(option(argv, "--ranks"))
    degrees = stage.layout.dp_replicate * stage.layout.dp_shard
    assert started == degrees == stage.world_size == nodes * processes
    assert 48 % (stage.accumulation * stage.world_size) == 0


def test_degrees_that_do_not_fit_the_processes_of_this_machine_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="data_parallel_shard"):
        plan_of(tmp_path, "parallelism.data_parallel_shard=4", processes=2)


def test_a_local_run_on_several_nodes_is_refused(tmp_path):
    with pytest.raises((RecipeError, RecipeErrors), match=r"launch\.(nodes|backend)"):
        plan_of(tmp_path, "launch.nodes=2", "training.global_batch_size=4")


@pytest.mark.parametrize(
    ("launch", "site", "gpus", "processes"),
    [
        ({}, None, 0, 1),
        ({}, None, 4, 4),
        ({"processes_per_node": 2}, None, 4, 2),
        ({"backend": "slurm"}, SiteConfig(gpus_per_node=8), 1, 8),
        ({"backend": "slurm"}, SiteConfig(), 4, 1),
        ({"backend": "slurm", "processes_per_node": 2}, SiteConfig(gpus_per_node=8), 0, 2),
    ],
)
def test_processes_per_node_follow_the_recipe_then_the_site_then_the_machine(
    launch, site, gpus, processes
):
    assert resolve_processes(LaunchConfig(**launch), site, gpus) == processes


def test_stages_are_chosen_by_name_or_from_one_on(tmp_path):
    plan = plan_of(tmp_path)
    assert [s.name for s in select_stages(plan)] == ["prepare", "pretrain", "export"]
    assert [s.name for s in select_stages(plan, start="pretrain")] == ["pretrain", "export"]
    assert [s.name for s in select_stages(plan, only=("export",))] == ["export"]
    with pytest.raises(NotFoundError, match="one of: prepare, pretrain, export"):
        select_stages(plan, only=("pretain",))


def test_stages_are_planned_after_those_they_need(tmp_path):
    text = """\
name: small
stages:
  export: {kind: export, needs: pretrain}
  pretrain:
    kind: pretrain
    needs: prepare
    training: {max_steps: 1, sequence_length: 16, global_batch_size: 2, micro_batch_size: 2}
  prepare: {kind: prepare, data: {source: {kind: python_stdlib}}}
"""
    recipe = load_recipe(write_recipe(tmp_path, text)).recipe
    plan = make_plan(recipe, RunFolder(tmp_path), 1)
    assert [s.name for s in plan.stages] == ["prepare", "pretrain", "export"]


def test_training_gets_its_threads(tmp_path):
    plan = plan_of(tmp_path, "pretrain.training.num_threads=3")
    assert stage_env(plan.stages[1])["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in stage_env(plan.stages[0])


def test_every_stage_is_watched_as_the_user_says(tmp_path):
    plan = plan_of(tmp_path, "launch.watchdog.limits.export=5s")
    for stage in plan.stages:
        assert json.loads(stage_env(stage)[WATCHDOG])["limits_s"] == {"export": 5}
    plan = plan_of(tmp_path, "launch.watchdog.enabled=false")
    assert [stage_env(stage)[WATCHDOG] for stage in plan.stages] == ["null"] * 3


def test_spares_are_of_stages_that_train_and_add_no_process(tmp_path):
    plan = plan_of(tmp_path, "launch.backend=slurm", "launch.spare_nodes=2", processes=1)
    assert plan.stages[1].spare_nodes == 2
    assert plan.stages[0].spare_nodes == 0
    assert all(stage.world_size == 1 for stage in plan.stages)
