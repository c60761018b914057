"""The jobs of a prepare stage over several tasks: what they are, and what waits for what."""

import json
from dataclasses import replace

import pytest

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.runs.folder import RunFolder
from launcher.backends.backend import BACKENDS
from launcher.backends.slurm.backend import SlurmBackend, recorded_jobs
from launcher.backends.slurm.client import Slurm
from launcher.backends.slurm.jobs import jobs_of
from launcher.backends.slurm.queue import submit_run
from launcher.commands import actions
from launcher.commands.plan_text import plan_json, plan_text
from launcher.commands.show import queued_text
from launcher.plan import Plan, StagePlan
from launcher.planning import plan_recipe
from tests.launcher.backends.slurm.fake_slurm import FakeSlurm
from tests.launcher.small_run import load_small, new_run

SLURM = ("launch.backend=slurm", "launch.prepare_tasks=3")
LAUNCH = LaunchConfig(backend="slurm", prepare_tasks=3)
CHAIN = ["prepare.plan", "prepare.clean", "prepare.decide", "prepare.encode", "prepare"]


def unwrapped(text):
    return " ".join(text.split())


@pytest.fixture
def plan(tmp_path):
    return new_run(tmp_path, *SLURM)


def submit(plan: Plan, fake: FakeSlurm):
    return submit_run(plan, LAUNCH, SiteConfig(), dry_run=False, slurm=Slurm(fake))


def new_ones(jobs):
    return [job.stage for job in jobs if job.is_new]


def dependencies(fake: FakeSlurm) -> list[str]:
    words = [word for argv in fake.of("sbatch") for word in argv]
    start = "--dependency="
    return [word.removeprefix(start) for word in words if word.startswith(start)]


def test_only_a_prepare_stage_of_text_under_slurm_has_tasks(tmp_path):
    def tasks(*overrides):
        recipe = load_small(tmp_path, *overrides).recipe
        return [stage.tasks for stage in plan_recipe(recipe, RunFolder(tmp_path)).stages]

    assert tasks(*SLURM) == [3, 1, 1]
    assert tasks("launch.prepare_tasks=3") == [1, 1, 1]
    assert tasks("launch.backend=slurm") == [1, 1, 1]


def test_without_tasks_a_stage_is_one_job():
    stage = StagePlan("prepare", "prepare", (), 1, 1, None, None, None)
    assert [(job.name, job.tasks, job.behind) for job in jobs_of([stage])] == [("prepare", 1, None)]


def test_with_tasks_it_is_a_chain_of_two_arrays_that_ends_with_the_same_job():
    stage = StagePlan("prepare", "prepare", (), 1, 1, None, None, None, tasks=3)
    jobs = jobs_of([stage])
    assert [job.name for job in jobs] == CHAIN
    assert [job.tasks for job in jobs] == [1, 3, 1, 3, 1]
    assert [job.behind for job in jobs] == [None, *CHAIN[:-1]]


def test_each_waits_for_the_end_of_the_one_before_and_other_stages_for_the_success_of_the_last(
    plan,
):
    fake = FakeSlurm()
    jobs = submit(plan, fake)
    assert [job.stage for job in jobs] == [*CHAIN, "pretrain", "export"]
    assert dependencies(fake) == [
        *("afterany:100", "afterany:101", "afterany:102", "afterany:103"),
        *("afterok:104", "afterok:105"),
    ]
    assert jobs[1].after == ("prepare.plan",)
    assert [job.tasks for job in jobs] == [1, 3, 1, 3, 1, 1, 1]
    assert recorded_jobs(plan.run) == {job.stage: job.job for job in jobs}
    assert "--phase=clean" in plan.run.scripts.joinpath("prepare.clean.sbatch").read_text()
    assert "--phase" not in plan.run.scripts.joinpath("prepare.sbatch").read_text()
    lines = plan.run.events.read_text().splitlines()
    events = [json.loads(line) for line in lines]
    queued = [(e["stage"], e.get("phase")) for e in events if e["event"] == "submitted"]
    assert queued[:5] == [
        ("prepare", phase) for phase in ("plan", "clean", "decide", "encode", None)
    ]


def test_a_stage_that_fails_before_it_cancels_all_of_the_chain(plan):
    prepare = replace(plan.stages[0], needs=("first",))
    first = StagePlan("first", "prepare", (), 1, 1, None, None, None)
    fake = FakeSlurm()
    submit(replace(plan, stages=(first, prepare)), fake)
    assert dependencies(fake) == [
        "afterok:100",
        *(f"afterok:100,afterany:{job}" for job in range(101, 105)),
    ]
    assert all("--kill-on-invalid-dep=yes" in argv for argv in fake.of("sbatch")[1:])


def test_a_chain_that_is_under_way_is_not_begun_again(plan):
    fake = FakeSlurm()
    submit(plan, fake)
    fake.states["100"] = "COMPLETED"
    fake.states["101"] = "RUNNING"
    jobs = submit(plan, fake)
    assert new_ones(jobs) == []
    assert jobs[0].stage == "prepare.clean"


def test_a_chain_of_which_the_end_is_missing_is_made_whole(plan):
    fake = FakeSlurm()
    submit(plan, fake)
    for job in fake.states:
        fake.states[job] = "CANCELLED"
    fake.states["101"] = "RUNNING"
    jobs = submit(plan, fake)
    assert new_ones(jobs) == ["prepare.decide", "prepare.encode", "prepare", "pretrain", "export"]
    assert dependencies(fake)[6:8] == ["afterany:101", "afterany:107"]


def test_a_chain_that_has_ended_is_begun_again(plan):
    fake = FakeSlurm()
    submit(plan, fake)
    for job in fake.states:
        fake.states[job] = "FAILED"
    assert new_ones(submit(plan, fake))[:5] == CHAIN


def test_a_refused_array_takes_back_what_came_before_it(plan):
    fake = FakeSlurm(refuse="prepare.clean.sbatch")
    with pytest.raises(Exception, match=r"The jobs queued just before \(100\) were cancelled"):
        submit(plan, fake)


def test_a_dry_run_shows_every_script(plan):
    jobs = submit_run(plan, LAUNCH, SiteConfig(), dry_run=True)
    assert [job.stage for job in jobs][:5] == CHAIN
    assert "#SBATCH --array=0-2\n" in jobs[1].text


def test_the_plan_names_the_jobs(tmp_path):
    loaded = load_small(tmp_path, *SLURM)
    plan = plan_recipe(loaded.recipe, RunFolder(tmp_path / "small"))
    chain = "plan, clean (3 tasks), decide, encode (3 tasks), the rest."
    assert f"prepare is 5 jobs, one after the other: {chain}" in unwrapped(plan_text(loaded, plan))
    assert plan_json(loaded, plan)["stages"][0]["tasks"] == 3


def test_the_queue_is_shown_with_its_arrays(plan):
    text = queued_text(plan.run, submit(plan, FakeSlurm()))
    assert "queued  prepare.clean   job 101, 3 tasks  after prepare.plan" in text


def test_what_does_one_phase_is_cancelled_and_the_stage_itself_is_not(plan):
    fake = FakeSlurm()
    submit(plan, fake)
    SlurmBackend(Slurm(fake)).cancel(plan.run, plan.recipe.stages)
    assert fake.of("scancel") == [["scancel", "100", "101", "102", "103"]]


def test_a_wish_to_stop_cancels_them(plan, monkeypatch):
    fake = FakeSlurm()
    submit(plan, fake)
    monkeypatch.setitem(BACKENDS, "slurm", SlurmBackend(Slurm(fake)))
    actions.stop_run(str(plan.run.root), 1.0)
    assert plan.run.stop.exists()
    assert [job for job, state in fake.states.items() if state == "CANCELLED"] == [
        *("100", "101", "102", "103")
    ]
