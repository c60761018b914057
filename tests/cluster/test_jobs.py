"""The job of a stage on a real Slurm of four nodes, with a stage that only counts steps."""

import json
from dataclasses import replace
from functools import partial

import pytest

from distrain.config.data import DataConfig
from distrain.config.layout import Layout
from distrain.config.recipe import PrepareStage, Recipe
from distrain.config.sources import FilesSource
from distrain.runs.failures import failure_of
from distrain.runs.records import read_state
from launcher.backends.protocol import SubmittedJob
from launcher.backends.slurm.queue import submit_run
from launcher.plan import Plan, StagePlan
from tests.cluster.real_slurm import Cluster, StandInRun, wait_until

pytestmark = pytest.mark.slurm


def one_process(name: str, *needs: str) -> StagePlan:
    return StagePlan(name, "prepare", needs, 1, 1, 1, None, None)


def two_nodes(name: str, *needs: str) -> StagePlan:
    layout = Layout("fsdp", 2, 1, 2)
    return StagePlan(name, "pretrain", needs, 2, 1, 1, layout, 1)


def submit(run: StandInRun, *stages: StagePlan) -> list[SubmittedJob]:
    data = DataConfig(source=FilesSource(kind="files", paths=("corpus",)))
    recipe = Recipe(
        name="counting",
        stages={s.name: PrepareStage(kind="prepare", data=data) for s in stages},
        launch=run.launch,
    )
    plan = Plan(recipe, run.folder, stages)
    return submit_run(plan, run.launch, run.site, dry_run=False)


def ids(jobs: list[SubmittedJob]) -> list[str]:
    return [job.job for job in jobs if job.job is not None]


def attempts(run: StandInRun, stage: str) -> dict[int, list[int]]:
    """Steps by attempt."""
    steps: dict[int, list[int]] = {}
    for line in run.trace(stage):
        steps.setdefault(line["attempt"], []).append(line["step"])
    return steps


def is_running(run: StandInRun, stage: str, attempt: int) -> bool:
    state = read_state(run.folder.stage(stage))
    return state is not None and (state["state"], state["attempt"]) == ("running", attempt)


def event_kinds(run: StandInRun) -> list[str]:
    lines = run.folder.events.read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_stages_run_in_the_order_of_their_needs(cluster: Cluster, stand_in_run: StandInRun):
    jobs = submit(
        stand_in_run,
        one_process("raw text"),
        one_process("left", "raw text"),
        one_process("right", "raw text"),
        one_process("last", "left", "right"),
    )
    assert cluster.ended(ids(jobs)[-1]).state == "COMPLETED"
    first, *_ = (stand_in_run.trace(name) for name in ("raw text",))
    for earlier, later in (("raw text", "left"), ("left", "last"), ("right", "last")):
        assert stand_in_run.trace(earlier)[-1]["time"] < stand_in_run.trace(later)[0]["time"]
    assert first[0]["setting"] == "a \"b\" $c 'd'"
    assert first[0]["from_setup"] == "module load"
    assert "FROM_SETUP" not in stand_in_run.log("raw text")


def test_a_stage_that_is_done_or_queued_is_not_queued_again(
    cluster: Cluster, stand_in_run: StandInRun
):
    stages = (one_process("a"), one_process("b", "a"), one_process("c", "b"))
    stand_in_run.behave("b", steps=600)
    first = submit(stand_in_run, *stages)
    stand_in_run.reached("b", 1)
    stand_in_run.folder.jobs.unlink()  # as if its submitter had died before writing it
    second = submit(stand_in_run, *stages)
    assert [(j.stage, j.is_new) for j in second] == [("b", False), ("c", False)]
    assert ids(second) == ids(first)[1:]


def test_an_error_that_would_repeat_ends_the_job_and_its_successors(
    cluster: Cluster, stand_in_run: StandInRun
):
    stand_in_run.behave("a", fail_at=2, error=True)
    a, b = ids(submit(stand_in_run, one_process("a"), one_process("b", "a")))
    assert cluster.ended(b).state == "CANCELLED"
    assert cluster.job(a).state == "FAILED"
    assert attempts(stand_in_run, "a") == {1: [1, 2]}
    assert "it would fail again" in stand_in_run.log("a")
    assert stand_in_run.trace("b") == []


def test_a_crash_is_tried_again_in_the_job_from_the_last_checkpoint_and_the_successor_waits(
    cluster: Cluster, stand_in_run: StandInRun
):
    stand_in_run.behave("a", steps=4, save_steps=2, fail_at=3)
    a, b = ids(submit(stand_in_run, one_process("a"), one_process("b", "a")))
    assert cluster.ended(b).state == "COMPLETED"
    assert cluster.job(a).restarts == 0
    assert attempts(stand_in_run, "a") == {1: [1, 2, 3], 2: [3, 4]}
    assert event_kinds(stand_in_run).count("restarted") == 1


def test_attempts_without_a_new_checkpoint_are_given_up(cluster: Cluster, stand_in_run: StandInRun):
    stand_in_run.behave("a", steps=9, save_steps=2, fail_at=3, always_fail=True)
    (a,) = ids(submit(stand_in_run, one_process("a")))
    assert cluster.ended(a).state == "FAILED"
    # The first attempt committed step 2, so only the two after it were in vain.
    assert attempts(stand_in_run, "a") == {1: [1, 2, 3], 2: [3], 3: [3]}
    assert "2 attempts in a row without a new checkpoint" in stand_in_run.log("a")
    assert event_kinds(stand_in_run)[-1] == "failed"


def test_exit_code_0_without_the_record_is_a_failure(cluster: Cluster, stand_in_run: StandInRun):
    run = replace(stand_in_run, launch=stand_in_run.launch.model_copy(update={"max_restarts": 0}))
    run.behave("a", save_steps=9, fail_at=3, lie=True)
    a, b = ids(submit(run, one_process("a"), one_process("b", "a")))
    assert cluster.ended(b).state == "CANCELLED"
    assert cluster.job(a).state == "FAILED"
    assert "the last: attempt failed (exit code 0)" in run.log("a")


def test_a_signalled_job_yields_and_goes_on_where_it_saved(
    cluster: Cluster, stand_in_run: StandInRun
):
    stand_in_run.behave("a", steps=40, save_steps=1000)
    a, b = ids(submit(stand_in_run, two_nodes("a"), one_process("b", "a")))
    stand_in_run.reached("a", 3)
    cluster.slurm("scancel", "--batch", "--signal=USR1", a)
    assert cluster.ended(b).state == "COMPLETED"
    before, after = attempts(stand_in_run, "a").values()
    assert before + after == list(range(1, 41))
    trace = stand_in_run.trace("a")
    assert (trace[0]["restart"], trace[-1]["restart"]) == ("0", "1")
    assert trace[0]["world_size"] == "2"
    assert cluster.job(a).restarts == 1


def test_a_job_whose_time_is_up_before_every_step_is_given_up(
    cluster: Cluster, stand_in_run: StandInRun
):
    """As with a time limit shorter than the start; ``max_restarts`` is 1."""
    stand_in_run.behave("a", idle=True)
    a, b = ids(submit(stand_in_run, one_process("a"), one_process("b", "a")))
    stage = stand_in_run.folder.stage("a")
    for attempt in (1, 2):
        wait_until(partial(is_running, stand_in_run, "a", attempt))
        cluster.slurm("scancel", "--batch", "--signal=USR1", a)
    assert cluster.ended(b).state == "CANCELLED"
    assert cluster.job(a).state == "FAILED"
    failure = failure_of(stage)
    assert failure is not None
    assert "2 attempts in a row without a new checkpoint, the last: yielded" in failure.error
    assert "launch.time_limit" in failure.remedy
    state = read_state(stage)
    assert state is not None
    assert (state["state"], state["attempt"]) == ("failed", 2)


def test_a_stage_that_does_not_yield_is_requeued_by_the_script(
    cluster: Cluster, stand_in_run: StandInRun
):
    stand_in_run.behave("a", steps=100, save_steps=10, deaf=True)
    (a,) = ids(submit(stand_in_run, one_process("a")))
    stand_in_run.reached("a", 11)
    cluster.slurm("scancel", "--batch", "--signal=USR1", a)
    assert cluster.ended(a).state == "COMPLETED"
    assert "did not end within 2 s" in stand_in_run.log("a")
    before, after = attempts(stand_in_run, "a").values()
    assert after[0] % 10 == 1
    assert after[0] <= before[-1] + 1


def test_a_crashed_node_is_replaced(cluster: Cluster, stand_in_run: StandInRun):
    stand_in_run.behave("a", steps=100, save_steps=10)
    _, b = ids(submit(stand_in_run, two_nodes("a"), one_process("b", "a")))
    stand_in_run.reached("a", 12)
    cluster.crash("node1")  # where the batch script and the rendezvous are
    assert cluster.ended(b).state == "COMPLETED"
    _, after = attempts(stand_in_run, "a").values()
    assert after[0] % 10 == 1
    assert after[0] > 1
    trace = stand_in_run.trace("a")
    assert (trace[0]["nodes"], trace[0]["restart"]) == ("node[1-2]", "0")
    assert (trace[-1]["nodes"], trace[-1]["restart"]) == ("node[2-3]", "1")


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, stand_in_run: StandInRun):
    stand_in_run.behave("a", steps=600)
    a, b = ids(submit(stand_in_run, one_process("a"), one_process("b", "a")))
    stand_in_run.reached("a", 2)
    cluster.slurm("scancel", a)
    assert cluster.ended(b).state == "CANCELLED"
    assert cluster.ended(a).state == "CANCELLED"
    assert cluster.job(a).restarts == 0


def test_a_stop_ends_the_run_and_submitting_again_goes_on(
    cluster: Cluster, stand_in_run: StandInRun
):
    stand_in_run.behave("a", steps=40)
    stages = (one_process("a"), one_process("b", "a"))
    a, b = ids(submit(stand_in_run, *stages))
    stand_in_run.reached("a", 2)
    stand_in_run.folder.stop.touch()
    assert cluster.ended(b).state == "CANCELLED"
    assert cluster.ended(a).state == "FAILED"
    again = submit(stand_in_run, *stages)
    assert cluster.ended(ids(again)[-1]).state == "COMPLETED"
    assert [line["step"] for line in stand_in_run.trace("a")] == list(range(1, 41))


def test_a_queued_job_of_a_stopped_run_ends_at_once(cluster: Cluster, stand_in_run: StandInRun):
    crowd = cluster.slurm("sbatch", "--parsable", "--nodes=4", "--exclusive", "--wrap=sleep 600")
    wait_until(lambda: cluster.job(crowd.strip()).state == "RUNNING")
    (a,) = ids(submit(stand_in_run, one_process("a")))
    stand_in_run.folder.control.mkdir()
    stand_in_run.folder.stop.touch()
    cluster.slurm("scancel", crowd.strip())
    assert cluster.ended(a).state == "FAILED"
    assert "not started" in stand_in_run.log("a")
    assert stand_in_run.trace("a") == []
