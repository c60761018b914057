"""Spares on a real Slurm: a node is lost, and another one has its place within the same job."""

import pytest

from tests.cluster.test_training import SAVE_STEPS, SlurmRun
from tests.tiny import distrain, events, write_recipe

STEPS = 60


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"), processes=2, steps=STEPS)


@pytest.fixture(scope="module")
def twin(recipe):
    runs = recipe.parent / "runs"
    finished = distrain(runs, "run", str(recipe), "--only", "prepare", "--only", "pretrain")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return runs / "tiny"


def places(run: SlurmRun) -> list[tuple[object, object]]:
    return [(e["node"], e["spare"]) for e in events(run.root, "node_replaced")]


@pytest.mark.slurm
def test_a_spare_takes_the_place_of_a_node_within_the_job(cluster, recipe, twin, tmp_path):
    run = SlurmRun(cluster, recipe, tmp_path, "launch.spare_nodes=1")
    run.reach(2 * SAVE_STEPS)
    cluster.crash("node2")
    run.finish()
    assert run.node_lists == ["node[1-3]"]
    assert places(run) == [("node2", "node3")]
    assert cluster.job(run.job).restarts == 0
    run.assert_equal_to(twin)


@pytest.mark.slurm
def test_a_spare_takes_the_place_of_the_node_with_batch_script_and_store(
    cluster, recipe, twin, tmp_path
):
    run = SlurmRun(cluster, recipe, tmp_path, "launch.spare_nodes=1")
    run.reach(2 * SAVE_STEPS)
    cluster.crash("node1")
    run.finish()
    assert places(run) == [("node1", "node3")]
    assert "done before" in run.log
    run.assert_equal_to(twin)
