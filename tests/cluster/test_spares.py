"""Spares on a real Slurm: a node is lost, and another one has its place within the same job."""

import signal
from collections.abc import Iterable
from contextlib import suppress

import psutil
import pytest

from tests.cluster.real_slurm import wait_until
from tests.cluster.test_training import SAVE_STEPS, SlurmRun, only
from tests.tiny import distrain, events, write_recipe

STEPS = 60
SPARE = "launch.spare_nodes=1"
LONG_S = 400.0
"""Nodes give up silent ones after a minute, and Slurm takes its own time to start a job again."""
REPLACED = "that it gave no sign of life for too long"
"""What a node says that was given up and came back."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"), processes=2, steps=STEPS)


@pytest.fixture(scope="module")
def twin(recipe):
    runs = recipe.parent / "runs"
    finished = distrain(runs, "run", str(recipe), *only(("prepare", "pretrain")))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return runs / "tiny"


def places(run: SlurmRun) -> list[tuple[object, object]]:
    """Who lost its place to whom."""
    return [(e["node"], e["spare"]) for e in events(run.root, "node_replaced")]


def struck(run: SlurmRun) -> list[tuple[object, object]]:
    return [(e["node"], e["kind"]) for e in events(run.root, "strike")]


def on_node(run: SlurmRun, node: str) -> list[psutil.Process]:
    """Return what the job has on a node: supervisor, fork server, ranks, batch process."""
    return [p for p, env in run.processes().items() if env.get("SLURMD_NODENAME") == node]


def signalled(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # what a test waited for in vain is what it shall say
            process.send_signal(number)


@pytest.mark.slurm
def test_a_spare_takes_the_place_of_a_node_within_the_job(cluster, recipe, twin, tmp_path):
    run = SlurmRun(cluster, recipe, tmp_path, SPARE)
    run.reach(2 * SAVE_STEPS)
    cluster.crash("node2")
    run.finish(LONG_S)
    assert run.node_lists == ["node[1-3]"]
    assert places(run) == [("node2", "node3")]
    assert struck(run) == [("node2", "silent")]
    assert cluster.job(run.job).restarts == 0
    run.assert_equal_to(twin)


@pytest.mark.slurm
def test_a_spare_takes_the_place_of_the_node_with_batch_script_and_store(
    cluster, recipe, twin, tmp_path
):
    run = SlurmRun(cluster, recipe, tmp_path, SPARE)
    run.reach(2 * SAVE_STEPS)
    cluster.crash("node1")
    run.finish(LONG_S)
    assert places(run) == [("node1", "node3")]
    assert struck(run) == [("node1", "silent")]
    assert "done before" in run.log, "the job was only started again to end it"
    run.assert_equal_to(twin)


@pytest.mark.spares
def test_a_silent_node_is_replaced_and_finds_that_when_it_comes_back(
    cluster, recipe, twin, tmp_path
):
    run = SlurmRun(cluster, recipe, tmp_path, SPARE, "launch.node_checks=auto")
    run.reach(2 * SAVE_STEPS)
    assert "3 nodes checked in" in run.log
    stopped = on_node(run, "node2")
    signalled(stopped, signal.SIGSTOP)
    try:
        wait_until(lambda: len(events(run.root, "resumed")) == 1, LONG_S)
        assert places(run) == [("node2", "node3")]
    finally:
        signalled(stopped, signal.SIGCONT)
    run.finish(LONG_S)
    wait_until(lambda: REPLACED in run.log, LONG_S)
    assert cluster.job(run.job).restarts == 0
    run.assert_equal_to(twin)


@pytest.mark.spares
@pytest.mark.parametrize("node", ["node1", "node2"])
def test_a_node_without_power_is_replaced(cluster, recipe, twin, tmp_path, node):
    """Nobody's connection to it is closed: only its signs of life are missing."""
    run = SlurmRun(cluster, recipe, tmp_path, SPARE)
    run.reach(2 * SAVE_STEPS)
    cluster.do("poweroff", node)
    run.finish(LONG_S)
    assert places(run) == [(node, "node3")]
    run.assert_equal_to(twin)


@pytest.mark.spares
def test_a_first_node_that_was_suspended_finds_that_it_was_replaced(
    cluster, recipe, twin, tmp_path
):
    """Its supervisor alone: its rank ends with its peer, and leaves the lock of the stage."""
    # The peer is held, or the run would be over before anybody misses the first node.
    run = SlurmRun(cluster, recipe, tmp_path, SPARE, "launch.watchdog.enabled=false")
    run.reach(2 * SAVE_STEPS)
    first = run.supervisor("node1")
    signalled([first, run.ranks()["node2"]], signal.SIGSTOP)
    try:
        wait_until(lambda: len(events(run.root, "resumed")) == 1, LONG_S)
        assert places(run) == [("node1", "node3")]
    finally:
        signalled([first], signal.SIGCONT)
    wait_until(lambda: REPLACED in run.log, LONG_S)
    run.finish(LONG_S)
    assert cluster.job(run.job).restarts == 0, "the batch process lived"
    run.assert_equal_to(twin)


@pytest.mark.spares
def test_a_suspended_host_of_the_batch_script_holds_nobody_up(cluster, recipe, twin, tmp_path):
    """With its rank it holds the lock of the stage, so the job ends, and starts elsewhere."""
    run = SlurmRun(cluster, recipe, tmp_path, SPARE)
    run.reach(2 * SAVE_STEPS)
    signalled(on_node(run, "node1"), signal.SIGSTOP)
    run.finish(LONG_S)
    run.assert_resumed()
    run.assert_equal_to(twin)


@pytest.mark.spares
def test_a_spare_that_is_lost_is_told_of_and_the_others_go_on(cluster, recipe, twin, tmp_path):
    # Ranks are held below for longer than any step takes, which counts as a hang.
    run = SlurmRun(cluster, recipe, tmp_path, SPARE, "launch.watchdog.enabled=false")
    run.reach(2 * SAVE_STEPS)
    cluster.crash("node3")
    ranks = run.ranks().values()
    signalled(ranks, signal.SIGSTOP)
    try:
        wait_until(lambda: len(events(run.root, "spare_lost")) == 1, LONG_S)
    finally:
        signalled(ranks, signal.SIGCONT)
    run.finish(LONG_S)
    assert [e["node"] for e in events(run.root, "spare_lost")] == ["node3"]
    assert (places(run), run.reasons(), cluster.job(run.job).restarts) == ([], [], 0)
    run.assert_equal_to(twin)


@pytest.mark.spares
def test_without_a_spare_left_the_job_is_requeued(cluster, recipe, twin, tmp_path):
    run = SlurmRun(cluster, recipe, tmp_path, SPARE)
    run.reach(2 * SAVE_STEPS)
    cluster.crash("node3")
    cluster.crash("node2")
    wait_until(lambda: "asks Slurm to start it again" in run.log, LONG_S)
    cluster.do("start", "node3")  # or there would be too few for the job
    run.finish(LONG_S)
    run.assert_resumed()
    run.assert_equal_to(twin)


@pytest.mark.spares
def test_one_node_has_a_spare_too(cluster, recipe, twin, tmp_path):
    run = SlurmRun(
        cluster, recipe, tmp_path, SPARE, "launch.nodes=1", "launch.processes_per_node=2"
    )
    run.reach(2 * SAVE_STEPS)
    cluster.crash("node1")
    run.finish(LONG_S)
    assert places(run) == [("node1", "node2")]
    run.assert_equal_to(twin)
